//! What is said between a steerer and worker processes of versions before, as it was said when they were built. That they obey is tested
//! elsewhere.

use std::fs;

use serde::Serialize;
use serde::de::DeserializeOwned;
use spectrum_proxy::Moving;

use super::*;
use crate::instance::LEDGER_VERSION;

/// The messages, each behind the word for who says it.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/worker_process/message/golden.txt");

const CURE: &str = "A worker process of the version before, which drains for days, says and hears it as it stands in message/golden.txt. Keep that \
                    form: what is added to a message must be optional and skipped where it is not set, and what is new must not be said to whom \
                    does not know it. If that cannot be, raise VERSION in instance/upgrade/handed_ledger.rs, so that instances refuse the \
                    upgrade and name a restart, and write the file anew";

/// The fault of `text` as a `T`, if it has one.
fn fault<T: DeserializeOwned + Serialize>(text: &str) -> Option<String> {
    match serde_json::from_str::<T>(text) {
        Ok(read) => {
            let said = serde_json::to_string(&read).unwrap();
            (said != text).then(|| format!("{text}\nis now\n{said}\n"))
        }
        Err(error) => Some(format!("{text}\nis not understood any more: {error}\n")),
    }
}

#[test]
fn messages_have_the_form_in_which_worker_processes_of_versions_before_know_them() {
    let golden = fs::read_to_string(GOLDEN).unwrap();
    let mut lines = golden.lines();
    assert_eq!(lines.next(), Some(&*format!("ledger {LEDGER_VERSION}")), "write {GOLDEN} anew");
    let faults = lines.filter_map(|line| match line.split_once(' ') {
        Some(("to-worker", text)) => fault::<ToWorker>(text),
        Some(("from-worker", text)) => fault::<FromWorker>(text),
        Some(("sessions", text)) => fault::<Moving>(text),
        _ => panic!("{line}"),
    });
    let faults: String = faults.collect();
    assert!(faults.is_empty(), "{faults}{CURE}");
}
