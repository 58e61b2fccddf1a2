//! Whether what is bound is exempted from rules that give connections another destination. Whether there are any is found
//! out by looking.

use spectrum_common::UnknownWord;
use strum::{Display, EnumString, VariantNames};

/// The user's choice of what NAT may do to connections to what is bound.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq, Display, EnumString, VariantNames)]
#[strum(serialize_all = "kebab-case", parse_err_ty = UnknownWord, parse_err_fn = UnknownWord::of::<NatChoice>)]
pub enum NatChoice {
    /// Nothing: they keep the destination that was dialled.
    #[default]
    Exempt,
    /// Whatever its rules say.
    Heed,
}
