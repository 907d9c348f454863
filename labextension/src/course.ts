// The notebooks of the course: originals that come with the extension, copies that are worked in.

import { URLExt } from '@jupyterlab/coreutils';
import { Contents } from '@jupyterlab/services';

import { ASSETS, VIEW } from './ids';

/** What the card of a notebook shows; read from the notebook's own metadata when it is packed. */
export interface IEntry {
  file: string;
  title: string;
  paper: string;
  minutes: number;
  /** What is drawn on its card: the inside of an SVG of 24 by 24. */
  thumbnail?: string;
}

/** How far a working copy is. */
export interface IProgress {
  /** Of each section with code, by its heading: whether all of it was run without an error. */
  sections: Map<string, boolean>;
  right: number;
  exercises: number;
}

export interface IIndex {
  notebooks: IEntry[];
  /** Experiments whose recorded run can be replayed, and the notebook in which its data are. */
  replays: Record<string, string>;
  /** Pages of recorded cells, to which the notebooks link. */
  results: string[];
}

const RESULTS = 'results';

const textOf = (parts: string | string[]): string => [parts].flat().join('');

/** A notebook is done when its exercises are right. */
export const isDone = ({ right, exercises }: IProgress): boolean =>
  exercises > 0 && right === exercises;

/** A notebook's number and title, as "0. Start". */
export const nameOf = ({ file, title }: IEntry): string => {
  const number = /^(\d+)_/.exec(file)?.[1];
  return number === undefined ? title : `${Number(number)}. ${title}`;
};

async function asset(...file: string[]): Promise<Response> {
  const answer = await fetch(URLExt.join(ASSETS, 'notebooks', ...file.map(encodeURIComponent)));
  if (!answer.ok) {
    const name = file.join('/');
    throw new Error(`prunekit: ${name} is missing (${answer.status}); install the package again`);
  }
  return answer;
}

const fetched = async (file: string): Promise<any> => (await asset(file)).json();

export class Course {
  constructor(private contents: Contents.IManager) {}

  index(): Promise<IIndex> {
    return fetched('index.json');
  }

  /** The working copy, made from the original if there is none. */
  async copy(file: string): Promise<void> {
    if ((await this.found(file)) === null) {
      await this.reset(file);
    }
    await this.results();
  }

  /** The pages to which the notebooks link, those that are not there. */
  private async results(): Promise<void> {
    if (!(await this.names('')).includes(RESULTS)) {
      await this.contents.save(RESULTS, { type: 'directory' });
    }
    const there = await this.names(RESULTS);
    for (const name of (await this.index()).results.filter(each => !there.includes(each))) {
      const content = await (await asset(RESULTS, name)).text();
      await this.contents.save(`${RESULTS}/${name}`, { type: 'file', format: 'text', content });
    }
  }

  /**
   * Put the original in the place of the working copy; what its cells answer is not told, but for
   * what a cell tagged `keep` shows.
   */
  async reset(file: string): Promise<void> {
    const original = await fetched(file);
    for (const cell of original.cells.filter((each: any) => each.cell_type === 'code')) {
      const keep = cell.metadata.tags?.includes('keep');
      cell.execution_count = null;
      cell.outputs = keep ? cell.outputs : [];
      for (const output of cell.outputs) {
        if ('execution_count' in output) {
          output.execution_count = null;
        }
      }
    }
    await this.save(file, original);
  }

  /** The data of the recorded run of an experiment. */
  async recorded(name: string): Promise<unknown> {
    const original = await fetched((await this.index()).replays[name]);
    const outputs: any[] = original.cells.flatMap((cell: any) => cell.outputs ?? []);
    const shown = outputs.map(output => output.data?.[VIEW]?.data);
    return shown.find(data => data?.experiment === name);
  }

  /** How far the working copy is; nothing of one that is not there. */
  async progress(file: string): Promise<IProgress> {
    const cells: any[] = (await this.found(file))?.cells ?? [];
    const found: IProgress = { sections: new Map(), right: 0, exercises: 0 };
    let section = '';
    for (const cell of cells) {
      const text = textOf(cell.source);
      if (cell.cell_type === 'markdown') {
        section = /^## (.*)$/m.exec(text)?.[1] ?? section;
      } else if (cell.cell_type === 'code' && text.trim() !== '') {
        const failed = cell.outputs.some((each: any) => each.output_type === 'error');
        const ran = cell.execution_count !== null && !failed;
        found.sections.set(section, (found.sections.get(section) ?? true) && ran);
        if (/^exercise\(/m.test(text)) {
          const said = cell.outputs.map((each: any) => textOf(each.text ?? '')).join('');
          found.exercises += 1;
          found.right += Number(/(^|\n)right\b.*\s*$/.test(said));
        }
      }
    }
    return found;
  }

  /** What stands in a file; null if there is none. Asking for one that is not there is an error. */
  private async found(file: string): Promise<any> {
    const there = (await this.names('')).includes(file);
    return there ? (await this.contents.get(file, { content: true })).content : null;
  }

  private async names(folder: string): Promise<string[]> {
    const { content } = await this.contents.get(folder, { content: true });
    return content.map((each: Contents.IModel) => each.name);
  }

  private async save(file: string, content: any): Promise<void> {
    await this.contents.save(file, { type: 'notebook', format: 'json', content });
  }
}
