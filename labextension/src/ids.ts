import { PageConfig, URLExt } from '@jupyterlab/coreutils';

/** Where the files are that come with the extension. */
export const ASSETS = URLExt.join(PageConfig.getOption('fullLabextensionsUrl'), 'prunekit-lab');

/** The commands of the course. */
export namespace Ids {
  export const open = 'prunekit:open';
  export const reset = 'prunekit:reset';
  export const replay = 'prunekit:replay';
}

export const COURSE = 'Pruning course';

/** What a widget of the course leaves in a notebook. */
export const VIEW = 'application/vnd.prunekit.view+json';
