//! `bpm/upgrade`: another program takes this process over, and answers.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::follow::failed;
use crate::base::clock::Mono;
use crate::base::json::{list, object};
use crate::engine::handle::{Handle, Reply, ReplySlot, Request, UpgradeWish};
use crate::os::poll::Waker;
use crate::server::rpc;
use crate::server::service::{Answer, Step, Task};

/// The parameter of the call that the program before has left to us.
pub(super) const DONE: &str = "done";

/// Asks for it.
pub(super) fn upgrade(handle: &Arc<Handle>, wish: UpgradeWish) -> Step {
    Step::Wait(Box::new(Upgrading {
        handle: Arc::clone(handle),
        wish: Some(wish),
        slot: None,
        waker: None,
        told: Vec::new(),
    }))
}

/// The answer of the program that was asked for.
pub(super) fn done(handle: &Handle) -> Step {
    Step::Done(Answer::Result(handle.upgraded()))
}

struct Upgrading {
    handle: Arc<Handle>,
    wish: Option<UpgradeWish>,
    slot: Option<ReplySlot>,
    waker: Option<Arc<Waker>>,
    /// The processes whose builds are waited for, as the client knows them.
    told: Vec<String>,
}

impl Task for Upgrading {
    fn start(&mut self, waker: &Arc<Waker>) {
        self.handle.snapshot.watch(waker);
        let wish = self.wish.take();
        self.slot = wish.map(|wish| self.handle.ask(Request::Upgrade(wish), Some(waker), false));
        self.waker = Some(Arc::clone(waker));
    }

    fn poll(&mut self, _: Mono, _: usize, out: &mut Vec<Value>) -> Option<Answer> {
        match self.slot.as_ref().and_then(ReplySlot::take) {
            Some(Reply::Refused(why)) => return Some(failed(why)),
            Some(_) => {
                let same = [
                    ("same", true.into()),
                    ("pid", self.handle.identity.pid.into()),
                ];
                return Some(Answer::Result(object(same)));
            }
            None => {}
        }
        let snapshot = self.handle.snapshot.now();
        let building = snapshot.units.iter().filter(|u| u.facts.building.is_some());
        let building: Vec<String> = building.map(|u| u.name.clone()).collect();
        if self.told != building {
            let names = list(building.iter().map(String::as_str));
            let params = object([("waiting_for", names)]);
            out.push(rpc::notification("bpm/upgrading", params));
            self.told = building;
        }
        None
    }

    fn deadline(&self) -> Option<Mono> {
        None
    }

    fn again(&self, _: &Map<String, Value>, _: Mono) -> Option<Map<String, Value>> {
        let mut params = Map::new();
        params.insert(DONE.into(), true.into());
        Some(params)
    }
}

impl Drop for Upgrading {
    fn drop(&mut self) {
        if let Some(waker) = &self.waker {
            self.handle.snapshot.unwatch(waker);
        }
    }
}
