//! Which path to steer by. Whether it is possible is found out by taking it.

use spectrum_common::UnknownWord;
use strum::{Display, EnumString, VariantNames};

/// The user's choice of a path.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, Display, EnumString, VariantNames)]
#[strum(serialize_all = "kebab-case", parse_err_ty = UnknownWord, parse_err_fn = UnknownWord::of::<ModeChoice>)]
pub enum ModeChoice {
    /// sk_lookup where the kernel has it and lets us, else TPROXY.
    #[default]
    Auto,
    /// sk_lookup or an error.
    SkLookup,
    /// TPROXY or an error.
    Tproxy,
}
