//! Which module may import which within a crate; between crates cargo keeps the walls. The picture is in ARCHITECTURE.md; only
//! the arrows that would be easiest to break are checked, not a whole graph.

use super::{Finding, at, code};

/// The modules of steering with effects, which know of one another only what their users pass to them.
const EFFECTS: [&str; 3] = ["dispatcher", "host", "tproxy"];

/// No module with effects imports another; decisions and words import no effect; what observes does not know the configuration.
pub(super) fn modules_import_along_the_arrows(path: &str, text: &str) -> Vec<Finding> {
    let Some((krate, inner)) = path.split_once("/src/") else { return Vec::new() };
    let module = inner.split('/').next().unwrap_or_default().trim_end_matches(".rs");
    let allowed = |imported: &str| match (krate, module) {
        ("spectrum-proxy" | "spectrum-steering" | "spectrum-user", "model") => imported == "model",
        ("spectrum-steering", "plan") => ["model", "plan"].contains(&imported),
        ("spectrum-steering", _) if EFFECTS.contains(&module) => {
            imported == module || !EFFECTS.contains(&imported)
        }
        ("spectrum-user", "observe") => ["model", "observe"].contains(&imported),
        _ => true,
    };
    // A `use` with braces may span lines, so the file is read as one.
    let lines = code::lines(text);
    let all = lines.iter().map(|(_, code)| code.as_str()).collect::<Vec<_>>().join("\n");
    all.match_indices("crate::")
        .flat_map(|(start, found)| {
            let line = all[..start].matches('\n').count() + 1;
            imported(&all[start + found.len()..]).into_iter().map(move |name| (line, name))
        })
        .filter(|(_, imported)| !allowed(imported))
        .map(|(line, imported)| at(path, line, format!("{module} must not import {imported}")))
        .collect()
}

/// The first names after `crate::`: one, or each at the first level of braces.
pub(super) fn imported(rest: &str) -> Vec<&str> {
    let name = |text: &'_ str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let Some(group) = rest.strip_prefix('{') else { return vec![&rest[..name(rest)]] };
    let mut names = Vec::new();
    let mut depth = 0_usize;
    let mut start = 0;
    for (index, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                let item = group[start..index].trim_start();
                names.push(&item[..name(item)]);
                start = index + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, text: &str) -> usize {
        modules_import_along_the_arrows(path, text).len()
    }

    #[test]
    fn effects_do_not_import_each_other() {
        assert_eq!(check("spectrum-steering/src/host/routes.rs", "use crate::dispatcher::Dispatcher;"), 1);
        assert_eq!(check("spectrum-steering/src/tproxy/mod.rs", "fn f() { crate::host::sweep(); }"), 1);
        assert_eq!(
            check(
                "spectrum-steering/src/host/mod.rs",
                "use crate::model::Prefix;\nuse crate::host::routes;\n"
            ),
            0
        );
    }

    #[test]
    fn decisions_import_no_effects() {
        assert_eq!(check("spectrum-steering/src/plan/mod.rs", "use crate::host::LocalRoutes;"), 1);
        assert_eq!(check("spectrum-steering/src/plan/mod.rs", "use crate::model::Prefix;"), 0);
    }

    #[test]
    fn the_observer_does_not_know_the_configuration() {
        assert_eq!(check("spectrum-user/src/observe/mod.rs", "use crate::config::Config;"), 1);
        assert_eq!(check("spectrum-user/src/observe/mod.rs", "use crate::model::LogFormat;"), 0);
    }

    #[test]
    fn an_import_in_braces_is_seen_wherever_it_stands() {
        let text = "use crate::{\n    model::{Prefix, Protocol},\n    tproxy,\n};\n";
        assert_eq!(check("spectrum-steering/src/host/mod.rs", text), 1);
    }

    #[test]
    fn the_model_imports_nothing_of_the_crate() {
        assert_eq!(check("spectrum-steering/src/model/binding.rs", "use crate::plan::Plan;"), 1);
        assert_eq!(check("spectrum-steering/src/model/binding.rs", "use crate::model::Prefix;"), 0);
    }

    #[test]
    fn commands_and_comments_are_free() {
        assert_eq!(check("spectrum-user/src/commands/run.rs", "use crate::{control, config};"), 0);
        assert_eq!(check("spectrum-steering/src/host/mod.rs", "// unlike crate::tproxy"), 0);
        assert_eq!(check("xtask/src/main.rs", "use crate::config;"), 0);
    }
}
