// The panel at the left: the notebooks in their order, and the runs that can be replayed.

import { CommandRegistry } from '@lumino/commands';
import { Widget } from '@lumino/widgets';

import { Course, IIndex } from './course';
import { Ids } from './ids';

function button(label: string, title: string, act: () => void): HTMLButtonElement {
  const made = document.createElement('button');
  made.className = 'jp-mod-styled jp-mod-minimal';
  made.style.cssText =
    'white-space: normal; text-align: left; height: auto; padding: 4px 8px; margin: 0 0 6px;';
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

  /** Look again which notebooks were run to their end. */
  async refresh(): Promise<void> {
    for (const [file, mark] of this.marks) {
      const done = await this.course.finished(file).catch(() => false);
      mark.textContent = done ? ' ✓' : '';
      mark.title = done ? 'run to its end' : '';
    }
  }

  protected onAfterShow(): void {
    void this.refresh();
  }

  private build(): void {
    const list = document.createElement('ol');
    list.style.cssText = 'list-style: none; margin: 0; padding: 0 4px;';
    for (const entry of this.index.notebooks) {
      const line = document.createElement('li');
      const mark = document.createElement('span');
      this.marks.set(entry.file, mark);
      const label = `${entry.title} (${entry.minutes} min)`;
      const open = button(label, entry.paper, () => {
        void this.commands.execute(Ids.open, { file: entry.file });
      });
      open.append(mark);
      line.append(open);
      list.append(line);
    }
    const about = document.createElement('p');
    about.style.margin = '0 8px';
    about.textContent = 'A ✓ stands behind what was run to its end and saved.';
    this.node.append(heading('Pruning course'), list, about);
    const replays = Object.keys(this.index.replays);
    if (replays.length > 0) {
      this.node.append(heading('Recorded runs'));
      for (const name of replays) {
        this.node.append(
          button(`Replay ${name}`, 'step by step, without a kernel', () => {
            void this.commands.execute(Ids.replay, { name });
          })
        );
      }
    }
  }

  private marks = new Map<string, HTMLElement>();
}
