//! The build of the program as a package has it: the same bytes wherever the work tree and cargo's home are. Puts it into
//! no package.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use xtask::musl;
use xtask::shell;
use xtask::workspace;

use crate::place::Place;

/// The manner in which it is built.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipe {
    /// Linked statically, with musl.
    pub(crate) is_static: bool,
    /// Quickly, by a profile that is no package's.
    pub(crate) is_trial: bool,
}

impl Recipe {
    /// Builds it in `place`, and says where it is.
    pub(crate) fn build(self, place: &Place) -> Result<PathBuf> {
        // What panics say of their place would otherwise be where somebody built it.
        let flags = [(&place.root, "/usr/src/spectrum"), (&place.cargo_home, "/usr/src/cargo")]
            .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
        let mut cargo = if self.is_static {
            let mut cargo = musl::build(&place.root, &flags)?;
            cargo.env(format!("CARGO_PROFILE_{}_STRIP", self.profile().to_uppercase()), "symbols");
            cargo
        } else {
            let mut cargo = workspace::cargo(["build", "--locked", "--package", "spectrum-user"]);
            cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f")).env_remove("RUSTFLAGS");
            cargo
        };
        cargo.args(["--profile", self.profile()]);
        place.equip(&mut cargo);
        shell::run(&mut cargo).with_context(|| format!("build the program in {}", place.root.display()))?;
        Ok(self.built(place))
    }

    /// The place where [`Recipe::build`] leaves it.
    pub(crate) fn built(self, place: &Place) -> PathBuf {
        if self.is_static {
            musl::built(&place.target, self.profile())
        } else {
            place.target.join(self.profile()).join("spectrum-user")
        }
    }

    fn profile(self) -> &'static str {
        if self.is_trial { "trial" } else { "dist" }
    }
}
