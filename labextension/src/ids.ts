/** The commands of the course. */
export namespace Ids {
  export const open = 'prunekit:open';
  export const reset = 'prunekit:reset';
  export const replay = 'prunekit:replay';
}

export const COURSE = 'Pruning course';
