//! Several files as one: the services of all, and every other key from whichever file has it. Judges no value.

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::key_path::KeyPath;
use crate::config::error::Problems;

/// The keys to which every file adds its own.
const INCLUDE: &str = "include";
const SERVICE: &str = "service";

/// Adds `file`, whose first byte is `base`, to `root`. What stands in both is refused, by both places.
pub(super) fn add<'t>(root: &mut DeTable<'t>, file: DeTable<'t>, base: usize, problems: &Problems<'_>) {
    join(root, moved_table(file, base), &KeyPath::File, problems);
}

fn join<'t>(into: &mut DeTable<'t>, from: DeTable<'t>, path: &KeyPath<'_>, problems: &Problems<'_>) {
    for (key, value) in from {
        let first = into.get_key_value(key.get_ref().as_ref()).map(|(first, _)| first.span().start);
        let (Some(first), Some(present)) = (first, into.get_mut(key.get_ref().as_ref())) else {
            into.insert(key, value);
            continue;
        };
        let (typed, offset) = (key.get_ref().as_ref(), key.span().start);
        let path = KeyPath::Key(path, typed);
        if matches!(path, KeyPath::Key(KeyPath::File, INCLUDE)) {
            let list = DeValue::Array(listed(present).into_iter().chain(listed(&value)).fold(
                DeArray::new(),
                |mut list, element| {
                    list.push(element);
                    list
                },
            ));
            *present.get_mut() = list;
            continue;
        }
        match (present.get_mut(), value.into_inner()) {
            (DeValue::Table(table), DeValue::Table(more)) => join(table, more, &path, problems),
            (DeValue::Array(list), DeValue::Array(more))
                if matches!(path, KeyPath::Key(KeyPath::File, SERVICE)) =>
            {
                for element in more {
                    list.push(element);
                }
            }
            _ => problems.add_about(
                offset,
                path,
                format_args!("stands in {} already; remove one of them", problems.beside(first, offset)),
            ),
        }
    }
}

/// The elements of a list, or the value itself where it stands alone.
fn listed<'t>(value: &Spanned<DeValue<'t>>) -> Vec<Spanned<DeValue<'t>>> {
    match value.get_ref() {
        DeValue::Array(list) => list.iter().cloned().collect(),
        _ => vec![value.clone()],
    }
}

fn moved_table(table: DeTable<'_>, by: usize) -> DeTable<'_> {
    let moved = |(key, value): (Spanned<_>, _)| {
        let span = key.span();
        (Spanned::new(span.start + by..span.end + by, key.into_inner()), moved_value(value, by))
    };
    table.into_iter().map(moved).collect()
}

fn moved_value(value: Spanned<DeValue<'_>>, by: usize) -> Spanned<DeValue<'_>> {
    let span = value.span();
    let moved = match value.into_inner() {
        DeValue::Array(list) => {
            let mut moved = DeArray::new();
            for element in list {
                moved.push(moved_value(element, by));
            }
            DeValue::Array(moved)
        }
        DeValue::Table(table) => DeValue::Table(moved_table(table, by)),
        other => other,
    };
    Spanned::new(span.start + by..span.end + by, moved)
}
