//! A BGP daemon of the host, and what it does with what is announced. Asks none.

use serde::{Deserialize, Serialize};

/// A BGP daemon, and what it does with each prefix that is to be announced.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct BgpDaemon {
    /// `bird` or `frr`.
    pub name: String,
    /// The sessions with routers that are established.
    pub established: usize,
    /// All sessions that are configured.
    pub sessions: usize,
    /// The established sessions that BFD watches.
    #[serde(default)]
    pub watched: usize,
    /// The seconds after which the router of another session misses this host, at most: the longest hold time among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<u64>,
    /// What it does with each prefix.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<PassedOn>,
    /// The reason for which that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

/// What a daemon does with a prefix.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct PassedOn {
    /// The prefix.
    pub prefix: String,
    /// True if it has the route that announces it.
    pub learned: bool,
    /// The sessions to which it passes it on.
    pub exported: usize,
}

impl BgpDaemon {
    /// What it says of `prefix`, and the cure where that is not as it should be: `is_announced` or not.
    #[must_use]
    pub fn judged(&self, prefix: &PassedOn, is_announced: bool) -> (String, Option<String>) {
        let Self { name, established, sessions, .. } = self;
        let PassedOn { learned, exported, .. } = prefix;
        let printed = format!("`spectrum-user announce --{name}` prints what it needs");
        match (is_announced, learned, exported) {
            (false, _, 0) => ("not passed on".to_owned(), None),
            (false, ..) => (
                format!(
                    "passed on to {exported} of {established} established sessions, although it is withdrawn"
                ),
                Some(format!(
                    "something else announces it, such as a static route or a network statement: remove that; {printed}"
                )),
            ),
            (true, false, _) => {
                ("not learned".to_owned(), Some(format!("have it learn routes of protocol 83; {printed}")))
            }
            (true, true, 0) if *established == 0 => (
                format!("learned, but none of {sessions} sessions is established"),
                Some("look at its log, and at the router's".to_owned()),
            ),
            (true, true, 0) => (
                format!("learned, but passed on to none of {established} established sessions"),
                Some(format!("have it export what it learns; {printed}")),
            ),
            (true, true, _) => {
                (format!("learned, and passed on to {exported} of {established} established sessions"), None)
            }
        }
    }

    /// Lines of what it does with each prefix, of which some are announced.
    #[must_use]
    pub fn lines(&self, is_announced: impl Fn(&str) -> bool) -> Vec<String> {
        if let Some(unknown) = &self.unknown {
            return vec![format!("{}: unknown: {unknown}", self.name)];
        }
        let line = |prefix: &PassedOn| {
            let (said, cure) = self.judged(prefix, is_announced(&prefix.prefix));
            let cure = cure.map_or_else(String::new, |cure| format!("; cure: {cure}"));
            format!("{}: {} {said}{cure}", self.name, prefix.prefix)
        };
        self.prefixes.iter().map(line).collect()
    }
}
