//! The connection records that an instance wrote to its log. Does not say what should be in them.

use std::collections::BTreeMap;

/// The fields of a record.
pub type Record<'log> = BTreeMap<&'log str, &'log str>;

/// The records in what an instance wrote, a map of fields each.
pub fn records(log: &str) -> Vec<Record<'_>> {
    log.lines()
        .filter(|line| line.contains(" connection service="))
        .map(|line| line.split(' ').filter_map(|field| field.split_once('=')).collect())
        .collect()
}
