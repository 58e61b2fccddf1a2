//! A configuration as it was read, for a version of the program that takes over: where it was read from there may be another one by now.
//! Parses nothing.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The text of a configuration, and the path that it was read from.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConfigText {
    /// The path.
    pub path: PathBuf,
    /// The text.
    pub text: String,
}
