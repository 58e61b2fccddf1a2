//! Bad configuration files, each with everything that is said about it.

mod bindings;
mod loanwords;
mod log;
mod origins;
mod policy;
mod services;
mod texts;
mod ties;

/// A file and what is wrong with it.
pub(super) struct Bad {
    pub(super) title: &'static str,
    pub(super) text: &'static str,
    /// `line:column: message`, in the order printed.
    pub(super) problems: &'static [&'static str],
}

/// All of them.
pub(super) fn files() -> impl Iterator<Item = &'static Bad> {
    [
        texts::FILES,
        loanwords::FILES,
        services::FILES,
        origins::FILES,
        log::FILES,
        policy::FILES,
        bindings::FILES,
        ties::FILES,
    ]
    .into_iter()
    .flatten()
}
