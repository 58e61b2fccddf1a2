//! Rules about the names of files. The words of identifiers are the reviewer's business.

use super::{Finding, about};

/// Names that say nothing about what a file defines, so that it ends up holding anything.
const GRAB_BAGS: [&str; 9] =
    ["common", "core", "handler", "helper", "helpers", "manager", "misc", "types", "utils"];

/// A file is named by the noun it defines.
pub(super) fn files_are_named_by_the_noun_they_define(path: &str, _: &str) -> Vec<Finding> {
    path.split('/')
        .map(|part| part.trim_end_matches(".rs"))
        .filter(|part| GRAB_BAGS.contains(part))
        .map(|part| about(path, format!("`{part}` names no noun; name the file by what it defines")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grab_bag_is_found_as_file_and_as_directory() {
        assert_eq!(
            files_are_named_by_the_noun_they_define("spectrum-steering/src/host/utils.rs", "").len(),
            1
        );
        assert_eq!(files_are_named_by_the_noun_they_define("spectrum-user/src/types/prefix.rs", "").len(), 1);
    }

    #[test]
    fn a_noun_that_contains_such_a_word_is_fine() {
        assert!(files_are_named_by_the_noun_they_define("spectrum-common/src/steer.rs", "").is_empty());
    }
}
