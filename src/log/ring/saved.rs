//! Pure: no system call, no thread, no clock.
//!
//! The memory of a log for an upgrade in place: numbers, counts and unfinished lines; the lines themselves only where
//! the files do not have them. Bytes stand beside the JSON, which has their places.

use std::sync::Arc;

use serde_json::Value;

use crate::base::clock::{Mono, Wall};
use crate::base::json::{list, object};
use crate::base::saved::{Saved, field, saved};
use crate::log::block::{Block, Chunk};
use crate::log::stream::Stream;

use super::{Gone, Open, Ring, Run, Track};

/// A track's block: the place of its bytes, and their lines.
#[derive(Default)]
struct SavedBlock {
    place: Place,
    chunks: Vec<Chunk>,
}

/// A line that is not finished.
#[derive(Default)]
struct Unfinished {
    place: Place,
    at: Wall,
    still_since: Mono,
}
#[derive(Default)]
struct SavedTrack {
    blocks: Vec<SavedBlock>,
    unfinished: Option<Unfinished>,
}
#[derive(Default)]
struct SavedRun {
    number: u64,
    started: Wall,
    ended: Option<(Wall, String)>,
    kept: u64,
    gone: Gone,
    tracks: [SavedTrack; 2],
}

saved! {
    SavedBlock { place, chunks }
    Unfinished { place, at, still_since }
    SavedTrack { blocks, unfinished }
    SavedRun { number, started, ended, kept, gone, tracks }
}

/// The start and the length of bytes beside the JSON.
type Place = (usize, usize);

fn put(bytes: &mut Vec<u8>, more: &[u8]) -> Place {
    let start = bytes.len();
    bytes.extend_from_slice(more);
    (start, more.len())
}

fn at((start, length): Place, bytes: &[u8]) -> Result<&[u8], String> {
    let end = start.checked_add(length);
    let found = end.and_then(|end| bytes.get(start..end));
    found.ok_or_else(|| "place: is beyond the end".into())
}

impl Ring {
    /// The lowest number of a line that is here.
    pub(in crate::log) fn oldest(&self) -> Option<u64> {
        let blocks = self.runs.iter().flat_map(|run| &run.tracks);
        let blocks = blocks.flat_map(Track::blocks).filter(|b| b.lines() > 0);
        blocks.map(Block::first).min()
    }

    /// `whole`: with its lines; else they count as evicted, and are read from the files.
    pub(in crate::log) fn save(&self, whole: bool, bytes: &mut Vec<u8>) -> Value {
        let runs = self.runs.iter().map(|run| run.saved(whole, bytes).save());
        let runs = list(runs);
        object([
            ("next_run", self.next_run.save()),
            ("origin", self.origin.save()),
            ("next_seq", self.next_seq.save()),
            ("gone", self.gone.save()),
            ("runs", runs),
        ])
    }

    /// Takes up what was saved, in a ring that is empty.
    pub(in crate::log) fn restore(&mut self, saved: &Value, bytes: &[u8]) -> Result<(), String> {
        self.next_run = field(saved, "next_run")?;
        self.origin = field(saved, "origin")?;
        self.next_seq = field(saved, "next_seq")?;
        self.gone = field(saved, "gone")?;
        let runs: Vec<SavedRun> = field(saved, "runs")?;
        for run in runs {
            let mut tracks = [Track::default(), Track::default()];
            for (track, saved) in tracks.iter_mut().zip(run.tracks) {
                for block in saved.blocks {
                    let mut lines = Block::new(at(block.place, bytes)?.to_vec(), block.chunks);
                    if lines.end() != block.place.1 {
                        return Err("chunks: do not fit their bytes".into());
                    }
                    lines.close(true);
                    self.held += lines.held();
                    track.full.push_back(Arc::new(lines));
                }
                if let Some(unfinished) = saved.unfinished {
                    track.open = Some(self.reopen(&unfinished, bytes)?);
                }
            }
            self.runs.push_back(Run {
                number: run.number,
                started: run.started,
                ended: run.ended,
                tracks,
                kept: run.kept,
                gone: run.gone,
            });
        }
        Ok(())
    }

    fn reopen(&mut self, saved: &Unfinished, bytes: &[u8]) -> Result<Open, String> {
        let line = at(saved.place, bytes)?;
        let size = (2 * line.len()).next_power_of_two();
        let mut buffer = Vec::with_capacity(self.limits.block().max(size));
        buffer.extend_from_slice(line);
        self.held += buffer.capacity();
        Ok(Open {
            block: Block::new(buffer, Vec::new()),
            at: saved.at,
            still_since: saved.still_since,
        })
    }
}

impl Run {
    fn saved(&self, whole: bool, bytes: &mut Vec<u8>) -> SavedRun {
        let gone = match whole {
            true => self.gone,
            false => Gone {
                through: self.gone.through.max(self.last()),
                lines: self.gone.lines + self.kept,
            },
        };
        SavedRun {
            number: self.number,
            started: self.started,
            ended: self.ended.clone(),
            kept: if whole { self.kept } else { 0 },
            gone,
            tracks: Stream::ALL.map(|stream| self.tracks[stream as usize].saved(whole, bytes)),
        }
    }
}

impl Track {
    fn saved(&self, whole: bool, bytes: &mut Vec<u8>) -> SavedTrack {
        let mut blocks = Vec::new();
        if whole {
            for block in self.blocks().filter(|block| block.lines() > 0) {
                blocks.push(SavedBlock {
                    place: put(bytes, block.bytes()),
                    chunks: block.chunks().to_vec(),
                });
            }
        }
        let open = self.open.as_ref();
        let open = open.filter(|open| !open.block.unfinished().is_empty());
        SavedTrack {
            blocks,
            unfinished: open.map(|open| Unfinished {
                place: put(bytes, open.block.unfinished()),
                at: open.at,
                still_since: open.still_since,
            }),
        }
    }
}
