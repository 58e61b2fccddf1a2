//! Text as a manual page has it. Knows nothing of what pages say.

use std::fmt::Write as _;

/// A manual page that is being written.
#[derive(Debug, Default)]
pub(crate) struct Page(String);

impl Page {
    /// A page with its title line.
    pub(crate) fn new(name: &str, section: u8, date: &str, source: &str) -> Self {
        let mut page = Self::default();
        let _ = writeln!(page.0, ".TH {} {section} {date} \"{source}\"", escaped(name));
        page
    }

    /// Begins a section.
    pub(crate) fn section(&mut self, title: &str) -> &mut Self {
        self.line(&format!(".SH {}", escaped(title)))
    }

    /// Begins a part of a section.
    pub(crate) fn part(&mut self, title: &str) -> &mut Self {
        self.line(&format!(".SS {}", escaped(title)))
    }

    /// A paragraph.
    pub(crate) fn paragraph(&mut self, text: &str) -> &mut Self {
        self.line(".PP").line(&guarded(text))
    }

    /// A paragraph below a term.
    pub(crate) fn term(&mut self, term: &str, text: &str) -> &mut Self {
        self.line(".TP").line(&format!("\\fB{}\\fR", escaped(term))).line(&guarded(text))
    }

    /// One more paragraph below the last term.
    pub(crate) fn more(&mut self, text: &str) -> &mut Self {
        self.line(".IP").line(&guarded(text))
    }

    /// Lines that stay as they are.
    pub(crate) fn verbatim(&mut self, lines: &[String]) -> &mut Self {
        self.line(".IP").line(".nf");
        for line in lines {
            self.line(&guarded(line));
        }
        self.line(".fi")
    }

    /// The page.
    pub(crate) fn into_text(self) -> String {
        self.0
    }

    fn line(&mut self, text: &str) -> &mut Self {
        self.0.push_str(text);
        self.0.push('\n');
        self
    }
}

/// `text` as it is, whatever is in it.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('`', "\\(ga")
}

/// The same for a line, which must not be taken for a request.
fn guarded(text: &str) -> String {
    let text = escaped(text);
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_is_taken_for_a_request() {
        let mut page = Page::new("a-b", 5, "2026-01-02", "c");
        page.section("D").term("key = \"x\\y\"", ".hidden 'it'");
        assert_eq!(
            page.into_text(),
            ".TH a\\-b 5 2026-01-02 \"c\"\n.SH D\n.TP\n\\fBkey = \"x\\ey\"\\fR\n\\&.hidden \\(aqit\\(aq\n"
        );
    }
}
