//! Which protocols are bound, as a user says it: one word, and both have one too.

use spectrum_common::UnknownWord;
use strum::{Display, EnumString, VariantNames};

use crate::model::Protocol;

/// One protocol, or both.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, Display, EnumString, VariantNames)]
#[strum(serialize_all = "kebab-case", parse_err_ty = UnknownWord, parse_err_fn = UnknownWord::of::<Protocols>)]
pub enum Protocols {
    /// TCP alone.
    #[default]
    Tcp,
    /// UDP alone.
    Udp,
    /// TCP and UDP: two bindings.
    Both,
}

impl Protocols {
    /// Each of them.
    #[must_use]
    pub fn each(self) -> &'static [Protocol] {
        match self {
            Self::Both => &[Protocol::Tcp, Protocol::Udp],
            Self::Tcp => &[Protocol::Tcp],
            Self::Udp => &[Protocol::Udp],
        }
    }
}
