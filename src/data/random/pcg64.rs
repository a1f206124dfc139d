//! NumPy's `default_rng`: PCG64 (XSL-RR 128/64, O'Neill 2014) seeded through `SeedSequence`.

const MULTIPLIER: u128 = 0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645;

/// `numpy.random.default_rng(seed)`.
#[derive(Debug, Clone)]
pub struct Generator {
    state: u128,
    increment: u128,
    spare: Option<u32>,
}

impl Generator {
    /// A fresh generator.
    pub fn new(seed: u32) -> Self {
        let [init_high, init_low, stream_high, stream_low] = seed_sequence(seed);
        let init = u128::from(init_high) << 64 | u128::from(init_low);
        let stream = u128::from(stream_high) << 64 | u128::from(stream_low);
        let mut generator = Self { state: 0, increment: stream << 1 | 1, spare: None };
        generator.step();
        generator.state = generator.state.wrapping_add(init);
        generator.step();
        generator
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.step();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }

    /// The next 32 bits: the low half of a 64-bit output, then its high half.
    pub fn next_u32(&mut self) -> u32 {
        if let Some(high) = self.spare.take() {
            return high;
        }
        let bits = self.next_u64();
        self.spare = Some((bits >> 32) as u32);
        bits as u32
    }

    /// `shuffle(x)` of a list or a 1-D array, in place.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.masked(i as u64) as usize);
        }
    }

    /// `permutation(n)`: the numbers `0..n` shuffled.
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        self.shuffle(&mut order);
        order
    }

    /// `choice(n, size, replace=False)` by Floyd's method, which is NumPy's for `n` up to 10 000. At most `n` numbers.
    pub fn choice_without_replacement(&mut self, n: usize, size: usize) -> Vec<usize> {
        let size = size.min(n);
        let mut chosen = Vec::with_capacity(size);
        let mut taken = vec![false; n];
        for last in n - size..n {
            let drawn = self.lemire(last as u32) as usize;
            let drawn = if taken[drawn] { last } else { drawn };
            taken[drawn] = true;
            chosen.push(drawn);
        }
        for i in (1..size).rev() {
            chosen.swap(i, self.lemire(i as u32) as usize);
        }
        chosen
    }

    fn step(&mut self) {
        self.state = self.state.wrapping_mul(MULTIPLIER).wrapping_add(self.increment);
    }

    /// An integer in `0..=max` by masked rejection.
    fn masked(&mut self, max: u64) -> u64 {
        let Some(mask) = u64::MAX.checked_shr(max.leading_zeros()).filter(|_| max > 0) else {
            return 0;
        };
        loop {
            let bits = if mask <= u64::from(u32::MAX) { u64::from(self.next_u32()) } else { self.next_u64() };
            if bits & mask <= max {
                return bits & mask;
            }
        }
    }

    /// An integer in `0..=max` by Lemire's multiplication (2019).
    fn lemire(&mut self, max: u32) -> u32 {
        if max == 0 {
            return 0;
        }
        if max == u32::MAX {
            return self.next_u32();
        }
        let width = max + 1;
        let mut product = u64::from(self.next_u32()) * u64::from(width);
        if (product as u32) < width {
            let threshold = width.wrapping_neg() % width;
            while (product as u32) < threshold {
                product = u64::from(self.next_u32()) * u64::from(width);
            }
        }
        (product >> 32) as u32
    }
}

/// `SeedSequence(seed).generate_state(4, uint64)`.
fn seed_sequence(seed: u32) -> [u64; 4] {
    let mut constant = 0x43b0_d7e5u32;
    let mut hash = |value: u32| {
        let value = value ^ constant;
        constant = constant.wrapping_mul(0x931e_8875);
        let value = value.wrapping_mul(constant);
        value ^ (value >> 16)
    };
    let mut pool = [seed, 0, 0, 0].map(&mut hash);
    for source in 0..4 {
        for target in (0..4).filter(|&target| target != source) {
            let other = hash(pool[source]);
            let mixed = 0xca01_f9ddu32.wrapping_mul(pool[target]).wrapping_sub(0x4973_f715u32.wrapping_mul(other));
            pool[target] = mixed ^ (mixed >> 16);
        }
    }
    let mut constant = 0x8b51_f9ddu32;
    let mut words = [0u32; 8];
    for (i, word) in words.iter_mut().enumerate() {
        let value = pool[i % 4] ^ constant;
        constant = constant.wrapping_mul(0x58f3_8ded);
        let value = value.wrapping_mul(constant);
        *word = value ^ (value >> 16);
    }
    [0, 1, 2, 3].map(|i| u64::from(words[2 * i]) | u64::from(words[2 * i + 1]) << 32)
}
