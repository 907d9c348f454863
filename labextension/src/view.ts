// What a widget of the course left in a notebook. While its kernel lives, ipywidgets shows it; else
// it is shown from the data in the output alone, or as the picture that stands there.

import { URLExt } from '@jupyterlab/coreutils';
import { NotebookPanel } from '@jupyterlab/notebook';
import { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import { IRenderMime } from '@jupyterlab/rendermime-interfaces';
import { Kernel, KernelMessage } from '@jupyterlab/services';
import { ISignal, Signal } from '@lumino/signaling';
import { Panel, Widget } from '@lumino/widgets';

import { ASSETS, VIEW } from './ids';

const WIDGET = 'application/vnd.jupyter.widget-view+json';
const COMM = 'jupyter.widget';
const RANK = -20; // before ipywidgets' own, -10
const FORMAT = 1;
const OTHER = 'This was written by another version of prunekit.';
const DAMAGED = 'The data of this view are damaged.';
const HOW = ' Run the notebook from the top to write it anew.';

/** Draw the outputs of the package's widgets in a notebook, and the text of one of the course. */
export function install(panel: NotebookPanel): void {
  void styled('notebook');
  void panel.context.ready.then(() => {
    if (panel.content.model?.getMetadata('prunekit')) {
      panel.addClass('prunekit-course');
      const { code, ...rest } = panel.content.editorConfig;
      panel.content.editorConfig = { ...rest, code: { ...code, lineWrap: true } };
    }
  });
  const { rendermime } = panel.content;
  const living = new Living(panel);
  rendermime.addFactory(
    {
      safe: true,
      mimeTypes: [VIEW],
      createRenderer: options => new View(options, rendermime, living)
    },
    RANK
  );
}

/** Which widgets the kernel of a notebook knows. */
class Living {
  constructor(panel: NotebookPanel) {
    const { sessionContext } = panel;
    sessionContext.iopubMessage.connect((_, message) => {
      if (KernelMessage.isCommOpenMsg(message) && message.content.target_name === COMM) {
        this.ids.add(message.content.comm_id);
      } else if (KernelMessage.isCommCloseMsg(message)) {
        this.ids.delete(message.content.comm_id);
      }
    });
    sessionContext.statusChanged.connect((_, status) => {
      if (status === 'restarting' || status === 'autorestarting') {
        this.ids.clear();
      }
    });
    sessionContext.kernelChanged.connect((_, { newValue }) => {
      this.ids.clear();
      void this.ask(newValue);
    });
    void sessionContext.ready.then(() => this.ask(sessionContext.session?.kernel ?? null));
  }

  has(id: string): boolean {
    return this.ids.has(id);
  }

  /** Emitted when more are known: a page that was loaded again finds its kernel alive. */
  get found(): ISignal<this, void> {
    return this._found;
  }

  private async ask(kernel: Kernel.IKernelConnection | null): Promise<void> {
    const answer = await kernel?.requestCommInfo({ target_name: COMM });
    if (answer?.content.status === 'ok') {
      Object.keys(answer.content.comms).forEach(id => this.ids.add(id));
      this._found.emit();
    }
  }

  private ids = new Set<string>();
  private _found = new Signal<this, void>(this);
}

class View extends Panel implements IRenderMime.IRenderer {
  constructor(
    private options: IRenderMime.IRendererOptions,
    private rendermime: IRenderMimeRegistry,
    private living: Living
  ) {
    super();
    this.addClass('prunekit-view');
  }

  async renderModel(model: IRenderMime.IMimeModel): Promise<void> {
    this.living.found.disconnect(this.again, this);
    this.model = model;
    this.clear();
    const known = this.living.has((model.data[WIDGET] as any)?.model_id);
    if (model.trusted && known && (await this.widget(model))) {
      this.node.dataset.shows = 'widget';
      return;
    }
    this.clear();
    await this.still(model);
    this.node.dataset.shows = this.end ? 'view' : 'picture';
    this.living.found.connect(this.again, this);
    if (!known) this.again(); // it may have been found while this was drawn
  }

  dispose(): void {
    this.clear();
    super.dispose();
  }

  /** Show the widget itself; say whether it is there. */
  private async widget(model: IRenderMime.IMimeModel): Promise<boolean> {
    const inner = this.rendermime.createRenderer(WIDGET);
    this.addWidget(inner);
    await inner.renderModel(model);
    return !inner.node.textContent?.startsWith('Error displaying widget');
  }

  /** Show what needs no kernel. */
  private async still(model: IRenderMime.IMimeModel): Promise<void> {
    const { format, view, data } = (model.data[this.options.mimeType] ?? {}) as any;
    let wrong = format === FORMAT ? '' : OTHER;
    if (!wrong && view) {
      const box = new Widget();
      this.addWidget(box);
      try {
        this.end = await shown(view, data, box.node);
        return;
      } catch (error) {
        console.warn(`prunekit: ${view}: ${error}`);
        box.dispose();
        wrong = DAMAGED;
      }
    }
    if (model.data['text/html']) {
      const picture = this.rendermime.createRenderer('text/html');
      this.addWidget(picture);
      await picture.renderModel(model);
    }
    if (wrong) {
      const words = document.createElement('p');
      words.className = 'prunekit-wrong';
      words.textContent = wrong + HOW;
      this.addWidget(new Widget({ node: words }));
    }
  }

  private again(): void {
    if (this.model && this.living.has((this.model.data[WIDGET] as any)?.model_id)) {
      void this.renderModel(this.model);
    }
  }

  private clear(): void {
    this.end?.();
    this.end = undefined;
    [...this.widgets].forEach(each => each.dispose());
  }

  private model?: IRenderMime.IMimeModel;
  private end?: () => void;
}

const sheets = new Map<string, Promise<unknown>>();

/** Load a style sheet, once. */
export function styled(name: string): Promise<unknown> {
  const sheet = document.createElement('link');
  sheet.rel = 'stylesheet';
  sheet.href = URLExt.join(ASSETS, 'views', `${name}.css`);
  const loaded = sheets.get(name) ?? new Promise(end => (sheet.onload = sheet.onerror = end));
  if (!sheets.has(name)) {
    document.head.append(sheet);
  }
  sheets.set(name, loaded);
  return loaded;
}

/** Load the script of a view and let it show its data in `node`; gives what ends it. */
export async function shown(view: unknown, data: unknown, node: HTMLElement): Promise<() => void> {
  if (typeof view !== 'string' || !/^\w+$/.test(view)) {
    throw new Error('there is no such view');
  }
  await styled(view); // it draws in the size that it has then
  const place = URLExt.join(ASSETS, 'views', `${view}.js`);
  const { show } = await import(/* webpackIgnore: true */ place);
  return show(node, data);
}
