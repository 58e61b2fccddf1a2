//! Rules about `Cargo.toml` files. Dependencies are cargo-deny's business.

use super::{Finding, about};

/// A lint table that no crate inherits is a wish.
pub(super) fn crates_inherit_the_lints(path: &str, text: &str) -> Vec<Finding> {
    let is_crate = text.lines().any(|line| line.trim() == "[package]");
    let inherits = text
        .lines()
        .map(str::trim)
        .skip_while(|line| *line != "[lints]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .any(|line| line.replace(' ', "") == "workspace=true");
    if !is_crate || inherits {
        return Vec::new();
    }
    vec![about(path, "does not inherit the workspace's lints: add `[lints]` with `workspace = true`")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_without_the_workspace_s_lints_is_found() {
        assert_eq!(crates_inherit_the_lints("a/Cargo.toml", "[package]\nname = \"a\"\n").len(), 1);
        let elsewhere = "[package]\n[lints]\n[dependencies.a]\nworkspace = true\n";
        assert_eq!(crates_inherit_the_lints("a/Cargo.toml", elsewhere).len(), 1);
    }

    #[test]
    fn a_crate_that_inherits_and_a_workspace_are_fine() {
        assert!(
            crates_inherit_the_lints("a/Cargo.toml", "[package]\n\n[lints]\nworkspace = true\n").is_empty()
        );
        assert!(crates_inherit_the_lints("Cargo.toml", "[workspace]\nmembers = []\n").is_empty());
    }
}
