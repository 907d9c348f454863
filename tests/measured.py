"""Texts whose words must be alike, and whose numbers roughly: what a cell measures differs from one
processor to another."""

import re

NUMBER = r"[+−-]?\d[\d,]*(?:\.\d+)?"


def unlike(stored, now):
    """How two texts differ in more than a little in their numbers; "" if they do not."""
    if re.sub(r"\s+", " ", re.sub(NUMBER, "#", stored)) != re.sub(
        r"\s+", " ", re.sub(NUMBER, "#", now)
    ):
        return f"other words\nstored: {stored}\nnow: {now}"
    pairs = zip(re.findall(NUMBER, stored), re.findall(NUMBER, now), strict=True)
    far = [(a, b) for a, b in pairs if abs(_number(a) - _number(b)) > _leeway(a)]
    return f"far from what is stored: {far}\nin: {now}" if far else ""


def _number(text):
    return float(text.replace(",", "").replace("−", "-"))


def _leeway(text):
    value = abs(_number(text))
    return max(0.02, 0.1 * value) if "." in text else 5 + 4 * value**0.5  # a count scatters
