//! Every file that bpm has on disk, and the stable name of a project. Knows nothing of processes.
