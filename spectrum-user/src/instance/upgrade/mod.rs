//! Upgrade in place: this process becomes another version of the program, and what it has raised stays as it is. What is handed over
//! is a document, the *handed ledger*, and descriptors; whoever adopts it can go back until it has. Starts no instance from nothing.

mod adopting;
mod binary;
mod files;
mod going;
mod handed_ledger;
mod handing;
mod sys;
mod takeover;
mod trial;
mod way_back;

pub(crate) use binary::OwnProgram;
#[cfg(test)]
pub(crate) use handed_ledger::VERSION as LEDGER_VERSION;
pub(crate) use takeover::Takeover;
pub(crate) use trial::try_out;
