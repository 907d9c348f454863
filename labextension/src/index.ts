// The pruning course in JupyterLab: a launcher card for each notebook, a panel at the left, and the
// commands behind them. Nothing runs in the server but the serving of files.

import { ILayoutRestorer, JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import {
  Dialog,
  ICommandPalette,
  MainAreaWidget,
  showDialog,
  showErrorMessage
} from '@jupyterlab/apputils';
import { IDocumentManager } from '@jupyterlab/docmanager';
import { ILauncher } from '@jupyterlab/launcher';
import { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import { LabIcon } from '@jupyterlab/ui-components';
import { Widget } from '@lumino/widgets';

import { Course, IEntry, nameOf } from './course';
import { COURSE, Ids } from './ids';
import { CoursePanel } from './panel';
import { install, shown, styled } from './view';

const icon = new LabIcon({
  name: 'prunekit-lab:net',
  svgstr: `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" width="16">
<g class="jp-icon3" stroke="#616161" stroke-width="1.4" fill="none"><path d="M5 6 19 5M5 6 19 12M5 18 19 12"/>
<path d="M5 12 19 19" stroke-dasharray="2 2"/></g>
<g class="jp-icon3" fill="#616161"><circle cx="5" cy="6" r="2.2"/><circle cx="5" cy="12" r="2.2"/>
<circle cx="5" cy="18" r="2.2"/><circle cx="19" cy="5" r="2.2"/><circle cx="19" cy="12" r="2.2"/>
<circle cx="19" cy="19" r="2.2"/></g></svg>`
});

/** What stands on the card of a notebook. */
function drawing({ file, thumbnail }: IEntry): LabIcon {
  const svgstr = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" width="16" fill="none"
stroke="#757575" stroke-linecap="round">${thumbnail}</svg>`;
  return thumbnail ? new LabIcon({ name: `prunekit-lab:${file}`, svgstr }) : icon;
}

const plugin: JupyterFrontEndPlugin<void> = {
  id: 'prunekit-lab:course',
  description: 'Launcher cards, a panel and commands for the pruning course.',
  autoStart: true,
  requires: [IDocumentManager],
  optional: [ILauncher, ICommandPalette, ILayoutRestorer],
  activate: async (
    app: JupyterFrontEnd,
    documents: IDocumentManager,
    launcher: ILauncher | null,
    palette: ICommandPalette | null,
    restorer: ILayoutRestorer | null
  ) => {
    void styled('notebook');
    const { commands, serviceManager, shell } = app;
    const course = new Course(serviceManager.contents);
    const index = await course.index();
    const drawings = new Map<unknown, LabIcon>(index.notebooks.map(e => [e.file, drawing(e)]));
    const entry = (file: unknown): IEntry | undefined =>
      index.notebooks.find(each => each.file === file);

    /** A recorded run is called after the notebook in which it stands. */
    const replayed = (name: any): string => {
      const about = entry(index.replays[name]);
      return about ? nameOf(about) : 'a recorded run';
    };

    const guarded = (act: (args: any) => Promise<unknown>) => async (args: any) => {
      try {
        return await act(args);
      } catch (error) {
        await showErrorMessage(COURSE, error as Error);
      }
    };

    commands.addCommand(Ids.open, {
      label: args => {
        const about = entry(args['file']);
        return about ? nameOf(about) : 'Open a notebook of the course';
      },
      caption: args => {
        const about = entry(args['file']);
        return about ? `${about.paper} (${about.minutes} min)` : '';
      },
      icon: args => (args['isPalette'] ? undefined : (drawings.get(args['file']) ?? icon)),
      execute: guarded(async ({ file }) => {
        await course.copy(file);
        return documents.openOrReveal(file);
      })
    });

    commands.addCommand(Ids.reset, {
      label: args => `Reset to the original: ${entry(args['file'])?.title ?? 'a notebook'}`,
      execute: guarded(async ({ file }) => {
        const asked = await showDialog({
          title: 'Reset to the original?',
          body: `What you wrote in ${file} will be lost.`,
          buttons: [Dialog.cancelButton(), Dialog.warnButton({ label: 'Reset' })]
        });
        if (asked.button.accept) {
          await course.reset(file);
          const open = documents.findWidget(file);
          await (open && documents.contextForWidget(open)?.revert());
          if (open instanceof NotebookPanel) {
            open.content.activeCellIndex = 0;
            open.content.scrollToItem(0);
          }
        }
      })
    });

    commands.addCommand(Ids.replay, {
      label: args => `Replay ${replayed(args['name'])}`,
      caption: args => `${args['name']}, step by step, without a kernel`,
      execute: guarded(async ({ name }) => {
        const id = `prunekit-replay-${name}`;
        if ([...shell.widgets('main')].some(each => each.id === id)) {
          return shell.activateById(id);
        }
        const content = new Widget();
        content.node.style.cssText =
          'overflow: auto; padding: 16px; color: var(--jp-ui-font-color1)';
        const tab = new MainAreaWidget({ content });
        tab.id = id;
        tab.title.label = `Replay ${replayed(name)}`;
        tab.title.icon = icon;
        shell.add(tab, 'main');
        const end = await shown('Replay', await course.recorded(name), content.node);
        content.disposed.connect(end);
      })
    });

    index.notebooks.forEach(({ file }, rank) => {
      launcher?.add({ command: Ids.open, args: { file }, category: COURSE, rank });
      palette?.addItem({ command: Ids.open, args: { file, isPalette: true }, category: COURSE });
      palette?.addItem({ command: Ids.reset, args: { file }, category: COURSE });
    });
    for (const name of Object.keys(index.replays)) {
      palette?.addItem({ command: Ids.replay, args: { name }, category: COURSE });
    }

    const panel = new CoursePanel(course, index, commands);
    panel.id = 'prunekit-course';
    panel.title.icon = icon;
    panel.title.caption = COURSE;
    shell.add(panel, 'left', { rank: 900 });
    restorer?.add(panel, panel.id);
    serviceManager.contents.fileChanged.connect((_, change) => {
      if (panel.isVisible && entry(change.newValue?.path)) {
        void panel.refresh();
      }
    });
  }
};

const views: JupyterFrontEndPlugin<void> = {
  id: 'prunekit-lab:views',
  description: 'Shows the widgets of the course where their kernel is gone.',
  autoStart: true,
  requires: [INotebookTracker],
  activate: (_: JupyterFrontEnd, notebooks: INotebookTracker) => {
    notebooks.forEach(install);
    notebooks.widgetAdded.connect((_, panel) => install(panel));
  }
};

export default [plugin, views];
