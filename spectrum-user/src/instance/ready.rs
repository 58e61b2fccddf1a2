//! The line that says that a connection would now succeed. Says nothing else.

use serde::Serialize;

use crate::model::LogFormat;
use crate::observe::timestamp;
use crate::registry::Mode;

/// The instance that is ready.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    pub(super) mode: Mode,
    pub(super) services: usize,
    pub(super) bindings: usize,
}

#[derive(Serialize)]
struct JsonReady {
    timestamp: String,
    event: &'static str,
    mode: Mode,
    services: usize,
    bindings: usize,
}

impl Ready {
    /// It, and a newline.
    pub(crate) fn line(self, format: LogFormat) -> String {
        let Self { mode, services, bindings } = self;
        match format {
            LogFormat::Json => {
                let ready = JsonReady { timestamp: timestamp(), event: "ready", mode, services, bindings };
                serde_json::to_string(&ready).unwrap_or_default() + "\n"
            }
            LogFormat::Text => format!("ready mode={mode} services={services} bindings={bindings}\n"),
        }
    }
}
