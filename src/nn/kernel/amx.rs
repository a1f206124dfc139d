//! The matrix unit of recent Intel processors (AMX): detection and the inner kernel of a product of split matrices; and what operands look
//! like without it ([`WHOLE`]), where [`super::vectors`] multiplies.
//!
//! A tile is 16 rows of 64 bytes. `TDPBF16PS c, a, b` adds to 16 × 16 `f32` sums the products of 16 × 32 `bf16` values of
//! `a` with 32 × 16 of `b` (stored as 16 rows of pairs). The kernel keeps 2 × 2 tiles of sums, 32 × 32 values, in registers.
//! Intrinsics for these instructions are unstable in Rust, hence the inline assembly.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::cell::Cell;
use std::sync::OnceLock;

use super::simd::{Level, level};
use super::vectors;

/// A tile of `bf16` pairs: 16 rows of 16.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Tile(pub [u32; 256]);

impl Tile {
    /// All zero.
    pub const ZERO: Self = Self([0; 256]);
}

/// Parts of `bf16` that an `f32` is split into at the most; see [`super::packed`] for the precision.
pub const MOST_PARTS: usize = 3;
/// Instead of a number of parts: values as they are, for processors without a matrix unit. 32 rows of 32 `f32`, or of the columns of a right
/// matrix two halves of 32 rows of 16, are four tiles.
pub const WHOLE: usize = 4;
/// Rows and columns of the result that one call of [`Tiles::block_product`] computes.
pub const SIDE: usize = 32;
/// Inner dimension of one step.
pub const DEPTH: usize = 32;

/// Tiles that [`SIDE`] rows (or columns) of [`DEPTH`] values take: for each part one for each half, or four [`WHOLE`].
pub const fn group(parts: usize) -> usize {
    if parts == WHOLE { 4 } else { 2 * parts }
}

/// Bytes that each step of [`Tiles::block_product`] prefetches: an eighth of a group.
pub const fn ahead(parts: usize) -> usize {
    128 * group(parts)
}

/// Whether this processor has AMX with `bf16`, the kernel lets this process use it, and `EMBEVAL_SIMD` does not narrow the
/// instruction set (`v4`, `v3` and `baseline` all do).
pub fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        let narrowed = std::env::var("EMBEVAL_SIMD").is_ok_and(|v| v == "v4");
        level() == Level::V4 && !narrowed && is_x86_feature_detected!("avx512bf16") && has_tiles() && permitted()
    })
}

/// How operands of products in this precision ([`super::precision::parts`]) are laid out here: in parts by AMX; without it those of one
/// part by AVX512-BF16, which takes half the time of a product in `f32`, and all others [`WHOLE`] by AVX-512; `None` where there is neither.
pub fn layout(parts: usize) -> Option<usize> {
    if available() || (parts == 1 && level() == Level::V4 && is_x86_feature_detected!("avx512bf16")) {
        return Some(parts);
    }
    (parts > 1 && level() == Level::V4).then_some(WHOLE)
}

fn has_tiles() -> bool {
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    if __cpuid_count(0, 0).eax < 7 {
        return false;
    }
    let features = __cpuid_count(7, 0).edx;
    features & AMX_BF16 != 0 && features & AMX_TILE != 0
}

/// Asks Linux for the tile state, which a process must do once (`arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`); it
/// then holds for all threads. A kernel that does not know tiles answers with an error.
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let mut result = ARCH_PRCTL;
    // SAFETY: the call reads its two integer arguments only; the instruction clobbers rcx and r11, which are declared.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _,
            out("r11") _,
                options(nostack),
        );
    }
    result == 0
}

/// The layout of the eight tile registers, as `LDTILECFG` reads it.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIG: Config = Config {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

thread_local! {
    /// Values of [`Tiles`] alive on this thread.
    static HOLDERS: Cell<usize> = const { Cell::new(0) };
}

/// The tile registers of this thread, in use while this lives: set up for [`Tiles::block_product`], and given back afterwards, so
/// that the operating system need not save them when it switches threads. Without AMX it has none, and multiplies by vectors.
pub struct Tiles {
    amx: bool,
    parts: usize,
    // The configuration belongs to the thread.
    not_send: std::marker::PhantomData<*const ()>,
}

impl Tiles {
    /// Sets the registers up for operands in this layout; `None` where it is not this processor's ([`layout`]).
    pub fn new(parts: usize) -> Option<Self> {
        if layout(parts) != Some(parts) {
            return None;
        }
        if !available() {
            return Some(Self { amx: false, parts, not_send: std::marker::PhantomData });
        }
        HOLDERS.set(HOLDERS.get() + 1);
        // SAFETY: the processor has the instruction and the process the permission; CONFIG is 64 bytes of a valid layout.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, readonly)) };
        Some(Self { amx: true, parts, not_send: std::marker::PhantomData })
    }

    /// Parts of the operands, or [`WHOLE`].
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// `c = f + a b` for 32 × 32 values of `c`, rows `stride` values apart. `from` is `f` and its stride: `c` itself to add to
    /// it, one row with stride 0 for a row that is added to all.
    ///
    /// `a` and `b` are `steps` groups of [`group`] tiles: for each of the parts, largest first, rows (columns) 0..16 and
    /// 16..32. Within a step the products of parts are added in a fixed order that ends with the largest: of three parts those
    /// six whose ranks add up to 2 at the most, of two parts three. Each step asks for [`ahead`] bytes from `next` on in the
    /// second-level cache, wherever that points.
    ///
    /// # Safety
    /// `a` and `b` must have `steps` ≥ 1 groups, and `c` 31 · `stride` + 32 values that nothing else touches;
    /// so must `f` by its stride.
    #[inline]
    pub unsafe fn block_product(
        &self,
        a: *const Tile,
        b: *const Tile,
        steps: usize,
        c: (*mut f32, usize),
        from: (*const f32, usize),
        next: *const u8,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.parts {
                1 => self.in_parts::<1>(a, b, steps, c, from, next),
                2 => self.in_parts::<2>(a, b, steps, c, from, next),
                WHOLE => vectors::whole(a, b, steps, c, from, next),
                _ => self.in_parts::<3>(a, b, steps, c, from, next),
            }
        }
    }

    #[inline]
    #[rustfmt::skip] // it moves the assembly four columns at each run
    unsafe fn in_parts<const PARTS: usize>(
        &self,
        a: *const Tile,
        b: *const Tile,
        steps: usize,
        (c, stride): (*mut f32, usize),
        from: (*const f32, usize),
        next: *const u8,
    ) {
        const { assert!(PARTS >= 1 && PARTS <= MOST_PARTS && size_of::<Tile>() == 1024, "the offsets below are those of 1 to 3 parts") };
        if !self.amx {
            // SAFETY: `new` has seen that the processor has AVX512-BF16; the addresses are the caller's promise.
            return unsafe { vectors::pairs(a, b, steps, (c, stride), from, next) };
        }
        macro_rules! steps {
            ($bytes:literal, $ahead:literal, $($line:literal),* $(,)?) => {
                // SAFETY: the registers are set up as long as `self` lives; the addresses are the caller's promise. Register 4
                // and 5 hold parts of `a`, 6 and 7 parts of `b`, 0 to 3 the sums.
                unsafe { asm!(
                    "tileloadd tmm0, [{f} + {u}]",
                    "tileloadd tmm1, [{f} + {u} + 64]",
                    "tileloadd tmm2, [{g} + {u}]",
                    "tileloadd tmm3, [{g} + {u} + 64]",
                    "3:",
                    $($line,)*
                    concat!("add {p}, ", $ahead),
                    concat!("add {a}, ", $bytes),
                    concat!("add {b}, ", $bytes),
                    "dec {n}",
                    "jnz 3b",
                    "tilestored [{c} + {s}], tmm0",
                    "tilestored [{d} + {s}], tmm2",
                    "tilestored [{c} + {s} + 64], tmm1",
                    "tilestored [{d} + {s} + 64], tmm3",
                    p = inout(reg) next => _,
                    a = inout(reg) a => _,
                    b = inout(reg) b => _,
                    n = inout(reg) steps => _,
                    c = in(reg) c,
                    d = in(reg) c.add(stride * 16),
                    s = in(reg) stride * size_of::<f32>(),
                    t = in(reg) 64usize,
                    f = in(reg) from.0,
                    g = in(reg) from.0.wrapping_add(from.1 * 16),
                    u = in(reg) from.1 * size_of::<f32>(),
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                ) }
            };
        }
        match PARTS {
            1 => steps!(2048, 256,
                "tileloadd tmm4, [{a} + {t}]",
                "tileloadd tmm6, [{b} + {t}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "prefetcht1 [{p}]",
                "tileloadd tmm5, [{a} + {t} + 1024]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "prefetcht1 [{p} + 64]",
                "tileloadd tmm7, [{b} + {t} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "prefetcht1 [{p} + 128]",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "prefetcht1 [{p} + 192]",
            ),
            2 => steps!(4096, 512,
                // Low part of a, high part of b.
                "tileloadd tmm4, [{a} + {t} + 2048]",
                "tileloadd tmm6, [{b} + {t}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "prefetcht1 [{p}]",
                "tileloadd tmm5, [{a} + {t} + 3072]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "prefetcht1 [{p} + 64]",
                "tileloadd tmm7, [{b} + {t} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "prefetcht1 [{p} + 128]",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // High part of a, low part of b.
                "tileloadd tmm4, [{a} + {t}]",
                "tileloadd tmm6, [{b} + {t} + 2048]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "prefetcht1 [{p} + 192]",
                "tileloadd tmm5, [{a} + {t} + 1024]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "prefetcht1 [{p} + 256]",
                "tileloadd tmm7, [{b} + {t} + 3072]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "prefetcht1 [{p} + 320]",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // High part of a, high part of b.
                "tileloadd tmm6, [{b} + {t}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "prefetcht1 [{p} + 384]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b} + {t} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "prefetcht1 [{p} + 448]",
                "tdpbf16ps tmm3, tmm5, tmm7",
            ),
            _ => steps!(6144, 768,
                // Low part of a, high part of b.
                "tileloadd tmm4, [{a} + {t} + 4096]",
                "tileloadd tmm6, [{b} + {t}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "prefetcht1 [{p}]",
                "tileloadd tmm5, [{a} + {t} + 5120]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b} + {t} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "prefetcht1 [{p} + 64]",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // Middle part of a, high part of b.
                "tileloadd tmm4, [{a} + {t} + 2048]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "prefetcht1 [{p} + 128]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a} + {t} + 3072]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "prefetcht1 [{p} + 192]",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // Middle part of a, middle part of b.
                "tileloadd tmm6, [{b} + {t} + 2048]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "prefetcht1 [{p} + 256]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b} + {t} + 3072]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "prefetcht1 [{p} + 320]",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // High part of a, middle part of b.
                "tileloadd tmm4, [{a} + {t}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "prefetcht1 [{p} + 384]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a} + {t} + 1024]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "prefetcht1 [{p} + 448]",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // High part of a, low part of b.
                "tileloadd tmm6, [{b} + {t} + 4096]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "prefetcht1 [{p} + 512]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b} + {t} + 5120]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "prefetcht1 [{p} + 576]",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // High part of a, high part of b.
                "tileloadd tmm6, [{b} + {t}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "prefetcht1 [{p} + 640]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b} + {t} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "prefetcht1 [{p} + 704]",
                "tdpbf16ps tmm3, tmm5, tmm7",
            ),
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        if !self.amx {
            return;
        }
        HOLDERS.set(HOLDERS.get() - 1);
        if HOLDERS.get() == 0 {
            // SAFETY: `new` has set the registers up, and nobody else on this thread uses them.
            unsafe { asm!("tilerelease", options(nostack, nomem)) };
        }
    }
}
