//! The Mersenne Twister MT19937 (Matsumoto and Nishimura 1998), the source behind NumPy's `RandomState` and Python's `random`.

const N: usize = 624;
const M: usize = 397;

/// The generator's state: 624 words and the position of the next one.
#[derive(Debug, Clone)]
pub struct Mt19937 {
    words: [u32; N],
    next: usize,
}

impl Mt19937 {
    /// `init_genrand` of the reference implementation: what NumPy does with an integer seed.
    pub fn from_seed(seed: u32) -> Self {
        let mut words = [0; N];
        let mut word = seed;
        words[0] = word;
        for (i, slot) in words.iter_mut().enumerate().skip(1) {
            word = 1_812_433_253u32.wrapping_mul(word ^ (word >> 30)).wrapping_add(i as u32);
            *slot = word;
        }
        Self { words, next: N }
    }

    /// `init_by_array` of the reference implementation: what Python does with an integer seed, given as 32-bit words,
    /// lowest first. An empty key is read as `[0]`.
    pub fn from_key(key: &[u32]) -> Self {
        let key = if key.is_empty() { &[0] } else { key };
        let mut state = Self::from_seed(19_650_218);
        let words = &mut state.words;
        let (mut i, mut j) = (1, 0);
        for _ in 0..N.max(key.len()) {
            let mixed = (words[i - 1] ^ (words[i - 1] >> 30)).wrapping_mul(1_664_525);
            words[i] = (words[i] ^ mixed).wrapping_add(key[j]).wrapping_add(j as u32);
            i += 1;
            j += 1;
            if i == N {
                words[0] = words[N - 1];
                i = 1;
            }
            if j == key.len() {
                j = 0;
            }
        }
        for _ in 1..N {
            let mixed = (words[i - 1] ^ (words[i - 1] >> 30)).wrapping_mul(1_566_083_941);
            words[i] = (words[i] ^ mixed).wrapping_sub(i as u32);
            i += 1;
            if i == N {
                words[0] = words[N - 1];
                i = 1;
            }
        }
        words[0] = 0x8000_0000;
        state
    }

    /// The next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == N {
            self.twist();
        }
        let mut word = self.words[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// A double in [0, 1) with 53 random bits, from two outputs.
    pub fn next_f64(&mut self) -> f64 {
        let high = f64::from(self.next_u32() >> 5);
        let low = f64::from(self.next_u32() >> 6);
        (high * 67_108_864.0 + low) / 9_007_199_254_740_992.0
    }

    fn twist(&mut self) {
        for i in 0..N {
            let word = (self.words[i] & 0x8000_0000) | (self.words[(i + 1) % N] & 0x7fff_ffff);
            let twisted = if word & 1 == 1 { (word >> 1) ^ 0x9908_b0df } else { word >> 1 };
            self.words[i] = self.words[(i + M) % N] ^ twisted;
        }
        self.next = 0;
    }
}
