"""One file for each published method, named like its one public function."""
