//! Texts that strangers chose, such as the names of their processes, as they can be shown: nothing in them moves a cursor,
//! begins a line or turns the direction of reading. Shortens nothing.

use std::borrow::Cow;
use std::io::{self, Write};

/// `text` with every character that would not be seen as itself written as Rust writes it: `\n`, `\u{1b}`.
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if is_hidden(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}

/// Control characters of ASCII, of Latin-1 and of Unicode's line and direction marks (Trojan Source, CVE-2021-42574).
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Writes lines of text, each as [`visible`] shows it.
#[derive(Debug)]
pub struct VisibleWriter<W: Write> {
    inner: W,
    /// The beginning of a character of which the rest has not come.
    partial: Vec<u8>,
}

impl<W: Write> VisibleWriter<W> {
    /// Writes to `inner`.
    pub fn new(inner: W) -> Self {
        Self { inner, partial: Vec::new() }
    }

    fn show(&mut self, text: &str) -> io::Result<()> {
        for (at, line) in text.split('\n').enumerate() {
            if at > 0 {
                self.inner.write_all(b"\n")?;
            }
            self.inner.write_all(visible(line).as_bytes())?;
        }
        Ok(())
    }
}

impl<W: Write> Write for VisibleWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let joined;
        let all = if self.partial.is_empty() {
            bytes
        } else {
            joined = [std::mem::take(&mut self.partial).as_slice(), bytes].concat();
            &joined
        };
        let mut chunks = all.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.show(chunk.valid())?;
            let (invalid, is_last) = (chunk.invalid(), chunks.peek().is_none());
            if is_last && matches!(str::from_utf8(invalid), Err(error) if error.error_len().is_none()) {
                invalid.clone_into(&mut self.partial);
            } else {
                for byte in invalid {
                    write!(self.inner, "\\x{byte:02x}")?;
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_move_the_cursor_is_written_out() {
        for (text, shown) in [
            ("nginx", "nginx"),
            ("größe 漢", "größe 漢"),
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("a\nready mode=x", "a\\nready mode=x"),
            ("\r\t\u{7f}\u{9b}", "\\r\\t\\u{7f}\\u{9b}"),
            ("\u{202e}txt\u{2066}", "\\u{202e}txt\\u{2066}"),
        ] {
            assert_eq!(visible(text), shown);
        }
    }

    #[test]
    fn a_writer_keeps_lines_and_characters_that_come_in_pieces() {
        let mut writer = VisibleWriter::new(Vec::new());
        for byte in "a\u{1b}ö\nb\u{85}\n".as_bytes() {
            writer.write_all(&[*byte]).unwrap();
        }
        writer.write_all(b"\xff\xc3(").unwrap();
        assert_eq!(String::from_utf8(writer.inner).unwrap(), "a\\u{1b}ö\nb\\u{85}\n\\xff\\xc3(");
    }
}
