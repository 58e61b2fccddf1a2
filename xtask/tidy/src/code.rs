//! What is left of a source line when its comments and literals are blanked out. No parser: it knows just enough of
//! Rust's tokens not to take the word in a sentence for the keyword.

/// The lines of `text`, numbered from 1, with comments and the insides of literals blanked.
pub(super) fn lines(text: &str) -> Vec<(usize, String)> {
    let mut state = State::Code;
    text.lines().enumerate().map(|(index, line)| (index + 1, state.blank(line))).collect()
}

/// True if `word` stands in `code` as a word of its own.
pub(super) fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(start, _)| {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        !code[..start].ends_with(is_part) && !code[start + word.len()..].starts_with(is_part)
    })
}

/// The syntax in whose midst a line begins.
enum State {
    Code,
    /// Inside that many nested block comments.
    Comment(usize),
    /// Inside a raw string that ends with a quote and that many hashes.
    RawString(usize),
    String,
}

impl State {
    fn blank(&mut self, line: &str) -> String {
        let mut code = String::with_capacity(line.len());
        let mut rest = line;
        while let Some(c) = rest.chars().next() {
            let (kept, length) = match self {
                Self::Code if rest.starts_with("//") => break,
                Self::Code => self.code(rest, c),
                Self::Comment(depth) => {
                    let (next, length) = match rest {
                        _ if rest.starts_with("*/") => (*depth - 1, 2),
                        _ if rest.starts_with("/*") => (*depth + 1, 2),
                        _ => (*depth, c.len_utf8()),
                    };
                    *self = if next == 0 { Self::Code } else { Self::Comment(next) };
                    (' ', length)
                }
                Self::String if c == '\\' => (' ', 1 + rest[1..].chars().next().map_or(0, char::len_utf8)),
                Self::String if c == '"' => {
                    *self = Self::Code;
                    ('"', 1)
                }
                Self::RawString(hashes) if rest.starts_with(&format!("\"{}", "#".repeat(*hashes))) => {
                    let length = 1 + *hashes;
                    *self = Self::Code;
                    ('"', length)
                }
                Self::String | Self::RawString(_) => (' ', c.len_utf8()),
            };
            code.push(kept);
            rest = &rest[length..];
        }
        code
    }

    /// Takes one token's worth of `rest`, which starts with `c` outside any comment or literal.
    fn code(&mut self, rest: &str, c: char) -> (char, usize) {
        if rest.starts_with("/*") {
            *self = Self::Comment(1);
            return (' ', 2);
        }
        if let Some(raw) = rest.strip_prefix('r') {
            let hashes = raw.len() - raw.trim_start_matches('#').len();
            if raw[hashes..].starts_with('"') {
                *self = Self::RawString(hashes);
                return ('"', 2 + hashes);
            }
        }
        match c {
            '"' => {
                *self = Self::String;
                ('"', 1)
            }
            // A lifetime has no closing quote; a character literal is one character or one escape.
            '\'' => match rest[1..].char_indices().nth(1) {
                Some((next, '\'')) if !rest[1..].starts_with('\\') => ('\'', next + 2),
                _ if rest.starts_with(r"'\") => {
                    ('\'', rest[3.min(rest.len())..].find('\'').map_or(rest.len(), |end| end + 4))
                }
                _ => ('\'', 1),
            },
            _ => (c, c.len_utf8()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        lines(text).into_iter().map(|(_, code)| code).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn comments_and_literals_are_blanked() {
        for text in [
            "let a = 1; // secret",
            "let a = \"secret \\\" secret\";",
            "let a = r#\"secret \" secret\"#;",
            "/* secret /* secret */ secret */ let a = 1;",
            "/// secret",
            "let a = \"first\nsecret\n\";",
        ] {
            assert!(!code(text).contains("secret"), "{text:?} became {:?}", code(text));
        }
    }

    #[test]
    fn code_after_a_literal_is_kept() {
        for text in [
            "let a = \"x\"; kept",
            "let a = '\"'; kept",
            "let a = '\\''; kept",
            "let a = '\\u{1f600}'; kept",
            "fn f<'a>(x: &'a str) { kept }",
            "r\"x\"; kept",
            "/* x */ kept",
        ] {
            assert!(code(text).contains("kept"), "{text:?} became {:?}", code(text));
        }
    }

    #[test]
    fn a_word_is_not_found_inside_another() {
        assert!(has_word("unsafe { }", "unsafe"));
        assert!(has_word("#[unsafe(no_mangle)]", "unsafe"));
        assert!(!has_word("#![deny(unsafe_code)]", "unsafe"));
    }
}
