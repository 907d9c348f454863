// The panel at the left: the notebooks in their order, and the runs that can be replayed.

import { CommandRegistry } from '@lumino/commands';
import { Widget } from '@lumino/widgets';

import { Course, IEntry, IIndex, IProgress, isDone, nameOf } from './course';
import { Ids } from './ids';

function button(label: string, title: string, act: () => void): HTMLButtonElement {
  const made = document.createElement('button');
  made.style.cssText =
    'display: block; font: inherit; color: var(--jp-content-link-color); background: none;' +
    'border: none; text-align: left; padding: 4px 8px; cursor: pointer;';
  made.textContent = label; // never as HTML: a name may hold anything
  made.title = title;
  made.onclick = act;
  return made;
}

function heading(text: string): HTMLElement {
  const made = document.createElement('h3');
  made.style.margin = '12px 8px 4px';
  made.textContent = text;
  return made;
}

export class CoursePanel extends Widget {
  constructor(
    private course: Course,
    private index: IIndex,
    private commands: CommandRegistry
  ) {
    super();
    this.addClass('prunekit-panel');
    this.node.style.overflow = 'auto';
    this.node.setAttribute('aria-label', 'Pruning course');
    this.build();
  }

  /** Look again how far each notebook is. */
  async refresh(): Promise<void> {
    let next: IEntry | null = null;
    for (const entry of this.index.notebooks) {
      const far = await this.course.progress(entry.file).catch(() => null);
      this.lines.get(entry.file)?.replaceChildren(...(far ? this.told(far) : []));
      next ??= far && isDone(far) ? null : entry;
    }
    this.next.style.display = next ? 'block' : 'none';
    this.next.textContent = next ? `Next: ${nameOf(next)}` : '';
    this.next.onclick = () => void this.commands.execute(Ids.open, { file: next?.file });
  }

  /** A square for each section, full where it was run, and how many exercises are right. */
  private told(far: IProgress): HTMLElement[] {
    const squares = [...far.sections].map(([title, done]) => {
      const square = document.createElement('span');
      square.textContent = done ? '■' : '□';
      square.title = `${title}: ${done ? 'run' : 'not run to its end'}`;
      return square;
    });
    const words = document.createElement('div');
    const { right, exercises } = far;
    words.textContent = exercises ? `${right} of ${exercises} exercises right` : 'not begun';
    words.textContent += isDone(far) ? ' ✓' : '';
    return [...squares, words];
  }

  protected onAfterShow(): void {
    void this.refresh();
  }

  private build(): void {
    const list = document.createElement('ol');
    list.style.cssText = 'list-style: none; margin: 0; padding: 0;';
    for (const entry of this.index.notebooks) {
      const line = document.createElement('li');
      const [row, far] = [document.createElement('div'), document.createElement('div')];
      row.style.cssText = 'display: flex; justify-content: space-between; align-items: baseline;';
      line.style.marginBottom = '10px';
      far.style.cssText = 'margin: 0 8px; color: var(--jp-ui-font-color2);';
      this.lines.set(entry.file, far);
      const label = `${nameOf(entry)} (${entry.minutes} min)`;
      const open = button(label, entry.paper, () => {
        void this.commands.execute(Ids.open, { file: entry.file });
      });
      const reset = button('reset', `Reset ${entry.file} to the original`, () => {
        void this.commands.execute(Ids.reset, { file: entry.file });
      });
      row.append(far, reset);
      line.append(open, row);
      list.append(line);
    }
    const about = document.createElement('p');
    about.style.margin = '0 8px';
    about.textContent = 'As saved: ■ sections that were run; ✓ all exercises are right.';
    this.node.append(heading('Pruning course'), this.next, list, about);
    const replays = Object.keys(this.index.replays);
    if (replays.length > 0) {
      this.node.append(heading('Recorded runs'));
      for (const name of replays) {
        const label = this.commands.label(Ids.replay, { name });
        const about = this.commands.caption(Ids.replay, { name });
        this.node.append(
          button(label, about, () => void this.commands.execute(Ids.replay, { name }))
        );
      }
    }
  }

  private lines = new Map<string, HTMLElement>();
  private next = button('', 'the first notebook that is not done', () => {});
}
