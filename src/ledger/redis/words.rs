//! The words of a command, one behind the other in one buffer: calls for thousands of files make no more than a few of
//! them.

use std::fmt::Display;
use std::io::Write;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Words {
    text: Vec<u8>,
    ends: Vec<usize>,
}

impl Words {
    pub(super) fn with_capacity(words: usize, bytes: usize) -> Self {
        Self { text: Vec::with_capacity(bytes), ends: Vec::with_capacity(words) }
    }

    pub(super) fn push(&mut self, word: impl AsRef<[u8]>) {
        self.text.extend_from_slice(word.as_ref());
        self.ends.push(self.text.len());
    }

    /// As it is displayed.
    pub(super) fn show(&mut self, word: impl Display) {
        // Memory takes all that is written.
        let _ = write!(self.text, "{word}");
        self.ends.push(self.text.len());
    }

    /// Of words as they are displayed.
    pub(super) fn shown(words: &[&dyn Display]) -> Self {
        let mut all = Self::default();
        words.iter().for_each(|word| all.show(word));
        all
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.text.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |end| &self.text[std::mem::replace(&mut start, *end)..*end])
    }
}

impl<W: AsRef<[u8]>> FromIterator<W> for Words {
    fn from_iter<I: IntoIterator<Item = W>>(words: I) -> Self {
        let mut all = Self::default();
        words.into_iter().for_each(|word| all.push(word));
        all
    }
}

impl<W: AsRef<[u8]>, const N: usize> From<[W; N]> for Words {
    fn from(words: [W; N]) -> Self {
        words.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_as_they_were_put_in() {
        let mut words = Words::from(["a", ""]);
        words.show(42);
        words.push(b"\xff\n");
        assert_eq!(words.iter().collect::<Vec<_>>(), [&b"a"[..], b"", b"42", b"\xff\n"]);
        assert_eq!((words.len(), words.bytes()), (4, 5));
    }
}
