//! Mutations: of bits, bytes, pieces, numbers and words of a corpus.

/// Longer inputs are cut.
const LONGEST: usize = 64 * 1024;

/// Where parsers change their mind.
const NUMBERS: [&[u8]; 18] = [
    b"0",
    b"-1",
    b"1",
    b"255",
    b"256",
    b"65535",
    b"65536",
    b"2147483647",
    b"2147483648",
    b"-2147483648",
    b"4294967295",
    b"4294967296",
    b"9223372036854775807",
    b"9223372036854775808",
    b"-9223372036854775808",
    b"18446744073709551615",
    b"18446744073709551616",
    b"1e999",
];
const PIECES: [&[u8]; 22] = [
    b"",
    b"\0",
    b"\n",
    b"\r\n",
    b"/",
    b"..",
    b"../",
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b"null",
    b"true",
    b"\xff",
    b"\xc3\xa9",
    b"\xf0\x9f\x92\xa9",
    b"\\ud800",
    b"[[[[[[[[[[[[[[[[",
    b"%",
    b"=",
];

/// A generator of inputs. The same seed and corpus give the same inputs.
#[derive(Debug)]
pub struct Mutator {
    state: u64,
    corpus: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
}

impl Mutator {
    pub(crate) fn new(seed: u64, corpus: &[&[u8]]) -> Self {
        let corpus: Vec<Vec<u8>> = corpus.iter().map(|whole| whole.to_vec()).collect();
        let mut words: Vec<Vec<u8>> = corpus
            .iter()
            .flat_map(|whole| whole.split(|byte| !byte.is_ascii_alphanumeric()))
            .filter(|word| (1..=64).contains(&word.len()))
            .map(<[u8]>::to_vec)
            .collect();
        words.sort_unstable();
        words.dedup();
        Self { state: seed, corpus, words }
    }

    /// The next number of the sequence (SplitMix64).
    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 if there is none.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.number() % bound).unwrap_or(0)
    }

    fn one_of(&mut self, of: &[&[u8]]) -> Vec<u8> {
        of.get(self.below(of.len())).map(|piece| piece.to_vec()).unwrap_or_default()
    }

    fn whole(&mut self) -> Vec<u8> {
        let index = self.below(self.corpus.len());
        self.corpus.get(index).cloned().unwrap_or_default()
    }

    /// A new input.
    pub(crate) fn input(&mut self) -> Vec<u8> {
        let mut input = self.whole();
        // Mostly few, so that most of it stays right.
        let times = 1 + self.below(4) * self.below(4);
        for _ in 0..times {
            self.mutate(&mut input);
        }
        input.truncate(LONGEST);
        input
    }

    fn mutate(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        let most = 1 + self.below(64);
        let length = self.below((input.len() - at).min(most) + 1);
        let piece = match self.below(12) {
            0 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << (self.number() % 8);
                }
                return;
            }
            1 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = self.number().to_le_bytes()[0];
                }
                return;
            }
            2 => Vec::new(),
            3 => {
                input.truncate(at);
                return;
            }
            4 => [input[at..at + length].to_vec(), input[at..at + length].to_vec()].concat(),
            5 => {
                let other = self.whole();
                let from = self.below(other.len() + 1);
                let until = from + self.below(other.len() - from + 1);
                other[from..until].to_vec()
            }
            6 | 7 => self.one_of(&NUMBERS),
            8 | 9 => self.one_of(&PIECES),
            10 => {
                let index = self.below(self.words.len());
                self.words.get(index).cloned().unwrap_or_default()
            }
            _ => {
                let byte = self.number().to_le_bytes()[0];
                vec![byte; self.below(300)]
            }
        };
        input.splice(at..at + length, piece);
        if input.len() > LONGEST {
            input.truncate(LONGEST);
        }
    }
}
