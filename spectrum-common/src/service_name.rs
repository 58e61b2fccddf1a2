//! The name of a service. Says nothing of what it does.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A service's name: 1 to 64 letters, digits, `-`, `_` and `.`, the first a letter or digit. Cheap to clone: every
/// connection record carries one.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, serde::Deserialize, serde::Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for ServiceName {
    /// The name of the service that the command line's flags describe.
    fn default() -> Self {
        Self("default".into())
    }
}

impl From<ServiceName> for String {
    fn from(value: ServiceName) -> Self {
        value.to_string()
    }
}

impl TryFrom<String> for ServiceName {
    type Error = <Self as FromStr>::Err;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for ServiceName {
    type Err = ParseServiceNameError;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        let well_formed = (1..=64).contains(&typed.len())
            && typed.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            && typed.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        if well_formed { Ok(Self(typed.into())) } else { Err(ParseServiceNameError) }
    }
}

/// The error of a text that is not a [`ServiceName`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a service name is 1 to 64 letters, digits, '-', '_' and '.', and begins with a letter or digit")]
pub struct ParseServiceNameError;
