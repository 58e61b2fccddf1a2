//! What somebody may have meant who typed something else.

/// The word nearest to `typed`, unless all are far.
pub(crate) fn nearest<'w>(typed: &str, words: &[&'w str]) -> Option<&'w str> {
    let typed = typed.trim().to_lowercase().replace('_', "-");
    // Comparing long texts takes long, and they are no typing errors.
    if typed.len() < 2 || typed.len() > 40 {
        return None;
    }
    words
        .iter()
        .map(|word| (strsim::damerau_levenshtein(&typed, &word.replace('_', "-")), *word))
        .filter(|(distance, word)| {
            *distance <= (word.len() / 3).max(1) || word.starts_with(&typed) || typed.starts_with(word)
        })
        .min()
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_are_near_and_other_words_are_not() {
        let keys = ["name", "bindings", "origins", "respond"];
        for (typed, meant) in [
            ("binding", Some("bindings")),
            ("bidnings", Some("bindings")),
            ("origin", Some("origins")),
            ("responder", Some("respond")),
            ("Name", Some("name")),
            ("listen", None),
            ("", None),
            ("n", None),
        ] {
            assert_eq!(nearest(typed, &keys), meant, "{typed:?}");
        }
        assert_eq!(nearest("sk_lookup", &["auto", "sk-lookup", "tproxy"]), Some("sk-lookup"));
    }
}
