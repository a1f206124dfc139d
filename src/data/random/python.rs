//! Python's `random.Random`, the methods that mteb calls.

use std::collections::HashSet;

use super::mt19937::Mt19937;

/// `random.Random(seed)`.
#[derive(Debug, Clone)]
pub struct PythonRandom {
    source: Mt19937,
}

impl PythonRandom {
    /// A fresh state.
    pub fn new(seed: u32) -> Self {
        Self { source: Mt19937::from_key(&[seed]) }
    }

    /// `random()`: a double in [0, 1).
    pub fn random(&mut self) -> f64 {
        self.source.next_f64()
    }

    /// `getrandbits(bits)` for up to 64 bits.
    pub fn getrandbits(&mut self, bits: u32) -> u64 {
        match bits {
            0 => 0,
            1..=32 => u64::from(self.source.next_u32() >> (32 - bits)),
            _ => {
                let low = u64::from(self.source.next_u32());
                let high = u64::from(self.source.next_u32() >> (64 - bits.min(64)));
                high << 32 | low
            }
        }
    }

    /// An integer below `n` by rejection; 0 for `n = 0`.
    pub fn randbelow(&mut self, n: u64) -> u64 {
        let bits = u64::BITS - n.leading_zeros();
        loop {
            let drawn = self.getrandbits(bits);
            if drawn < n || n == 0 {
                return drawn;
            }
        }
    }

    /// `sample(range(n), k)`: `min(k, n)` different numbers below `n`.
    pub fn sample(&mut self, n: usize, k: usize) -> Vec<usize> {
        let k = k.min(n);
        // Below this size CPython thinks a list of all numbers smaller than a set of the chosen ones.
        let mut list_limit = 21usize;
        if k > 5 {
            let mut power = 1usize;
            while power < 3 * k {
                power *= 4;
            }
            list_limit += power;
        }
        if n <= list_limit {
            let mut pool: Vec<usize> = (0..n).collect();
            return (0..k)
                .map(|i| {
                    let at = self.randbelow((n - i) as u64) as usize;
                    let drawn = pool[at];
                    pool[at] = pool[n - i - 1];
                    drawn
                })
                .collect();
        }
        let mut seen = HashSet::with_capacity(k);
        (0..k)
            .map(|_| {
                loop {
                    let drawn = self.randbelow(n as u64) as usize;
                    if seen.insert(drawn) {
                        return drawn;
                    }
                }
            })
            .collect()
    }

    /// `choices(range(n), k=k)`: `k` numbers below `n`, with repetition; empty for `n = 0`.
    pub fn choices(&mut self, n: usize, k: usize) -> Vec<usize> {
        let k = if n == 0 { 0 } else { k };
        (0..k).map(|_| (self.random() * n as f64) as usize).collect()
    }
}
