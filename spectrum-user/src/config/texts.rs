//! The texts of a configuration's files, laid end to end, so that one number says the file and the byte in it. Reads none.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

/// One file's text.
#[derive(Debug)]
pub(super) struct Text<'t> {
    /// The file.
    pub(super) path: Arc<Path>,
    /// All that is in it.
    pub(super) content: Cow<'t, str>,
    /// The offset of its first byte.
    pub(super) base: usize,
}

/// All of them, in the order in which they are read. Never without one.
#[derive(Debug)]
pub(super) struct Texts<'t>(Vec<Text<'t>>);

impl<'t> Texts<'t> {
    /// The first, or only, file.
    pub(super) fn begin(path: &Path, text: impl Into<Cow<'t, str>>) -> Self {
        Self(vec![Text { path: path.into(), content: text.into(), base: 0 }])
    }

    /// One more; its number.
    pub(super) fn push(&mut self, path: &Path, text: impl Into<Cow<'t, str>>) -> usize {
        // The byte behind the last one is a place, too: something may be missing there.
        let base = self.0.last().map_or(0, |last| last.base + last.content.len() + 1);
        self.0.push(Text { path: path.into(), content: text.into(), base });
        self.0.len() - 1
    }

    /// The texts.
    pub(super) fn each(&self) -> &[Text<'t>] {
        &self.0
    }

    /// The number of the text that has the byte `offset`.
    pub(super) fn at(&self, offset: usize) -> usize {
        self.0.partition_point(|text| text.base <= offset).saturating_sub(1)
    }

    /// The text `number`.
    pub(super) fn text(&self, number: usize) -> Option<&Text<'t>> {
        self.0.get(number)
    }

    /// The files.
    pub(super) fn paths(&self) -> Vec<Arc<Path>> {
        self.0.iter().map(|text| Arc::clone(&text.path)).collect()
    }
}
