//! spectrum.toml(5): the manual page of the configuration, made of the commented file that has every key. Judges no
//! configuration; what the parser knows is compared with the page by a test.

use std::mem;

use crate::roff::Page;

/// The path of the file that has every key.
pub(crate) const EXAMPLE: &str = "config/spectrum.toml";

/// The table that keys stand in before any other begins.
const TOP: &str = "Beside all tables";

/// A table of the file, with its keys in the order of the file.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Table {
    /// Its header, as it is written.
    pub(crate) header: String,
    /// What is said of the table itself.
    pub(crate) about: Vec<String>,
    /// Its keys.
    pub(crate) keys: Vec<Key>,
}

/// A key: what it is for, and as what it is written.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Key {
    /// Its name.
    pub(crate) name: String,
    /// What is said of it, line by line.
    pub(crate) about: Vec<String>,
    /// The lines of its example.
    pub(crate) example: Vec<String>,
}

/// The page that `text` makes, which is commented as the example is.
pub(crate) fn page(text: &str, date: &str) -> String {
    let tables = tables(text);
    let mut page = Page::new("spectrum.toml", 5, date, "spectrum");
    page.section("NAME").paragraph("spectrum.toml - configuration of spectrum-user");
    page.section("DESCRIPTION");
    page.paragraph(
        "A file in TOML says what spectrum-user serves: services, each with what is steered to it and what answers. \
         The unit spectrum.service reads /etc/spectrum/spectrum.toml, and spectrum@NAME.service /etc/spectrum/NAME.toml. \
         A running instance goes over to what its file says now by systemctl reload or spectrum-user reload, or goes on \
         as it was and says why not.",
    );
    page.section("KEYS");
    for table in &tables {
        page.part(&table.header);
        told(&mut page, &table.about, Page::paragraph);
        for key in &table.keys {
            let mut about = key.about.iter();
            page.term(&key.name, about.next().map_or("", String::as_str));
            told(&mut page, about.as_slice(), Page::more);
            page.verbatim(&key.example);
        }
    }
    page.section("SEE ALSO").paragraph("spectrum-user(1), spectrum-user-check(1), spectrum-user-reload(1)");
    page.into_text()
}

/// Writes paragraphs as such, and what is laid out in columns as it is.
fn told(page: &mut Page, lines: &[String], paragraph: impl for<'a> Fn(&'a mut Page, &str) -> &'a mut Page) {
    let mut laid_out = Vec::new();
    for line in lines {
        if line.starts_with(' ') {
            laid_out.push(line.clone());
            continue;
        }
        if !laid_out.is_empty() {
            page.verbatim(&mem::take(&mut laid_out));
        }
        paragraph(page, line);
    }
    if !laid_out.is_empty() {
        page.verbatim(&laid_out);
    }
}

/// The tables of a commented file. One that comes again adds its keys to what there is.
pub(crate) fn tables(text: &str) -> Vec<Table> {
    let mut tables = vec![Table { header: TOP.to_owned(), ..Table::default() }];
    let mut at = 0;
    let mut about: Vec<String> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let comment = line.strip_prefix('#');
        if let Some((name, _)) = assignment(comment.map_or(line, str::trim_start)) {
            let written = comment.map_or(line, str::trim_start);
            let mut key =
                Key { name: name.to_owned(), about: joined(mem::take(&mut about)), ..Key::default() };
            take_value(written, &mut lines, &mut key);
            add(&mut tables[at], key);
        } else if let Some(header) = header(comment.map_or(line, str::trim_start)) {
            at = tables.iter().position(|table| table.header == header).unwrap_or_else(|| {
                tables.push(Table { header: header.to_owned(), ..Table::default() });
                tables.len() - 1
            });
            tables[at].about.extend(joined(mem::take(&mut about)));
        } else if let Some(comment) = comment {
            about.push(comment.strip_prefix(' ').unwrap_or(comment).to_owned());
        } else if line.is_empty() && !about.is_empty() && at + 1 == tables.len() && tables[at].keys.is_empty()
        {
            // The head of the file, before any table.
            tables[at].about.extend(joined(mem::take(&mut about)));
        }
    }
    tables
}

/// The header of a table, if the line is one.
fn header(line: &str) -> Option<&str> {
    let line = line.trim_end();
    let name = line.strip_prefix('[')?.strip_suffix(']')?.trim_matches(['[', ']']);
    let is_name =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || b"-.".contains(&byte));
    is_name.then_some(line)
}

/// The key of a line that gives one a value, and what stands behind.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once('=')?;
    let name = name.trim_end();
    let is_key = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    is_key.then_some((name, value.trim_start()))
}

/// The lines of a value; what a comment within says is about the key.
fn take_value<'t>(first: &'t str, lines: &mut impl Iterator<Item = &'t str>, key: &mut Key) {
    let mut next = Some(first);
    let mut depth = 0;
    while let Some(line) = next {
        let (value, comment) = parted(line);
        if let Some(comment) = comment {
            let within = value.trim().is_empty();
            key.about.push(if within { format!("  {comment}") } else { comment.to_owned() });
        }
        if !value.trim().is_empty() {
            key.example.push(value.trim_end().to_owned());
            depth += value.matches(['[', '{']).count();
            depth -= value.matches([']', '}']).count().min(depth);
        }
        next = if depth > 0 { lines.next() } else { None };
    }
}

/// A line's value and its comment. No string of the example has the sign that begins one.
fn parted(line: &str) -> (&str, Option<&str>) {
    match line.split_once('#') {
        Some((value, comment)) => (value, Some(comment.strip_prefix(' ').unwrap_or(comment))),
        None => (line, None),
    }
}

/// Lines of one paragraph become one; those that are laid out stay.
fn joined(lines: Vec<String>) -> Vec<String> {
    let mut paragraphs: Vec<String> = Vec::new();
    let mut is_open = false;
    for line in lines {
        let is_prose = !line.starts_with(' ') && !line.is_empty();
        match paragraphs.last_mut() {
            Some(last) if is_open && is_prose => {
                last.push(' ');
                last.push_str(&line);
            }
            _ if line.is_empty() => {}
            _ => paragraphs.push(line),
        }
        is_open = is_prose;
    }
    paragraphs
}

/// A key that services have in several examples is one key.
fn add(table: &mut Table, key: Key) {
    match table.keys.iter_mut().find(|other| other.name == key.name) {
        Some(known) => {
            known.about.extend(key.about);
            known.example.extend(key.example);
        }
        None => table.keys.push(key),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use spectrum_user::config::Config;

    use super::*;

    fn example() -> String {
        fs::read_to_string(xtask::workspace::root().join(EXAMPLE)).unwrap()
    }

    #[test]
    fn a_key_has_what_is_said_before_it_beside_it_and_within_its_value() {
        let text = "# Head.\n\n[a]\n# One\n# paragraph.\n#   x   a word\nk = [\n  # within\n  1, # beside\n]\n# gone = 2   # a number\n";
        let [top, a] = &tables(text)[..] else { panic!("{:?}", tables(text)) };
        assert_eq!((&*top.header, &*top.about.concat()), (TOP, "Head."));
        let [k, gone] = &a.keys[..] else { panic!("{a:?}") };
        assert_eq!(k.about, ["One paragraph.", "  x   a word", "  within", "beside"]);
        assert_eq!(k.example, ["k = [", "  1,", "]"]);
        assert_eq!(
            (&*gone.name, &*gone.about.concat(), &*gone.example.concat()),
            ("gone", "a number", "gone = 2")
        );
    }

    /// The keys that the parser takes in a table: it names them all to whoever writes another there.
    fn known(text: &str) -> BTreeSet<String> {
        let error = Config::parse(Path::new("f"), text).unwrap_err().to_string();
        let line =
            error.lines().find(|line| line.contains("qqqqqqqqqqqq")).unwrap_or_else(|| panic!("{error}"));
        let (_, keys) = line.split_once("unknown key; expected ").unwrap_or_else(|| panic!("{line}"));
        keys.replace(" or ", ", ")
            .split(", ")
            .map(|key| key.trim_matches(['"', '`', ' ']).to_owned())
            .collect()
    }

    #[test]
    fn the_page_has_every_key_that_the_parser_takes_and_no_other() {
        const WRONG: &str = "qqqqqqqqqqqq = 1";
        let service = "[[service]]\nname = \"a\"\nbindings = [{ prefix = \"192.0.2.0/24\" }]\norigins = [\"10.0.0.1\"]\n";
        let tables = tables(&example());
        let table = |header: &str| tables.iter().find(|table| table.header == header).unwrap();
        for (header, text) in [
            ("[dispatcher]", format!("[dispatcher]\n{WRONG}\n{service}")),
            ("[instance]", format!("[instance]\n{WRONG}\n{service}")),
            ("[defaults]", format!("[defaults]\n{WRONG}\n{service}")),
            ("[policy]", format!("[policy]\n{WRONG}\n{service}")),
            ("[admin]", format!("[admin]\n{WRONG}\n{service}")),
            ("[resolver]", format!("[resolver]\n{WRONG}\n{service}")),
            ("[log]", format!("[log]\n{WRONG}\n{service}")),
            ("[service.timeouts]", format!("{service}[service.timeouts]\n{WRONG}\n")),
            (
                "[service.udp]",
                format!("{}[service.udp]\n{WRONG}\n", service.replace("{ ", "{ protocol = \"both\", ")),
            ),
            ("[[service]]", format!("{service}{WRONG}\n")),
        ] {
            let mut parsed = known(&text);
            if header == "[[service]]" {
                // Tables of their own.
                parsed.retain(|key| !["timeouts", "udp"].contains(&&**key));
            }
            let told: BTreeSet<String> = table(header).keys.iter().map(|key| key.name.clone()).collect();
            assert_eq!(told, parsed, "{EXAMPLE} and the parser about {header}");
        }
    }

    #[test]
    fn the_page_speaks_of_every_key_of_tables_within_a_line() {
        const WRONG: &str = "qqqqqqqqqqqq = 1";
        let page = page(&example(), "2026-01-02");
        let binding = "{ prefix = \"192.0.2.0/24\" }";
        let service = |binding: &str, origin: &str, more: &str| {
            format!("[[service]]\nname = \"a\"\nbindings = [{binding}]\norigins = [{origin}]\n{more}\n")
        };
        let plain = "\"10.0.0.1\"";
        for text in [
            service(&format!("{{ prefix = \"192.0.2.0/24\", {WRONG} }}"), plain, ""),
            service(binding, &format!("{{ origin = \"10.0.0.1\", {WRONG} }}"), ""),
            service(binding, plain, &format!("health = {{ {WRONG} }}")),
            service(binding, plain, &format!("ejection = {{ {WRONG} }}")),
            service(binding, plain, &format!("limits = {{ {WRONG} }}")),
            service(binding, plain, &format!("log = {{ {WRONG} }}")),
        ] {
            for key in known(&text) {
                let written = crate::roff::escaped(&key);
                assert!(
                    page.contains(&written),
                    "{EXAMPLE} says nothing of {key}, which the parser takes: {text}"
                );
            }
        }
    }
}
