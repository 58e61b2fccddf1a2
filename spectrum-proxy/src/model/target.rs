//! What answers the connections of a service. Does not know how they came.

use spectrum_common::UnknownWord;
use strum::{Display, EnumString, VariantNames};

use super::Origins;

/// The origins, the responder or the other programs that answer a service's connections.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub enum Target {
    /// Proxy to these.
    Origins(Origins),
    /// Leave it to other programs, whose sockets the packets go to. Nothing of it comes to the proxy, which resets what comes all the
    /// same.
    Registered,
    /// Answer ourselves.
    Respond(Responder),
}

/// A built-in answer, for demonstrations and tests.
#[derive(
    Clone,
    Copy,
    Debug,
    Eq,
    Hash,
    PartialEq,
    Display,
    EnumString,
    VariantNames,
    serde::Deserialize,
    serde::Serialize,
)]
#[strum(serialize_all = "kebab-case", parse_err_ty = UnknownWord, parse_err_fn = UnknownWord::of::<Responder>)]
pub enum Responder {
    /// `hello world`, a line that names the dialled and the client address, and the end.
    Hello,
    /// Send back what comes (RFC 862).
    Echo,
    /// Read and forget (RFC 863).
    Discard,
}
