//! `bpm metrics`: what `GET /metrics` answers, for a textfile collector.

use crate::base::clock::Mono;
use crate::base::error::Result;
use crate::base::json::object;
use crate::client::connection::PATIENCE;

use super::answer;
use super::spec::Call;

/// `bpm metrics`.
pub(super) fn metrics(call: &Call) -> Result<u8> {
    let (_, _, mut client) = call.daemon("tell the metrics")?;
    let until = Some(Mono::now().after(PATIENCE));
    let data = client
        .call("bpm/metrics", object([]), until)
        .map_err(|fault| fault.while_doing("tell the metrics"))?;
    answer(data["text"].as_str().unwrap_or_default())
}
