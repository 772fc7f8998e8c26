//! Which instructions a kernel runs with, chosen once by what the processor has.

#[cfg(target_arch = "x86_64")]
use super::aesni::AesNi;
use super::portable::Portable;
use super::simd::Kernel;
#[cfg(target_arch = "x86_64")]
use super::vaes::Vaes;

/// The instructions that a kernel is run with.
#[derive(Clone, Copy)]
pub(crate) enum Path {
    Portable(Portable),
    #[cfg(target_arch = "x86_64")]
    AesNi(AesNi),
    #[cfg(target_arch = "x86_64")]
    Vaes(Vaes),
}

impl Path {
    /// The fastest that this processor has.
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(vaes) = Vaes::detect() {
                return Self::Vaes(vaes);
            }
            if let Some(aesni) = AesNi::detect() {
                return Self::AesNi(aesni);
            }
        }
        Self::Portable(Portable)
    }

    /// Every one that this processor has, with its name.
    #[cfg(test)]
    pub fn all() -> Vec<(&'static str, Self)> {
        let mut all = vec![("portable", Self::Portable(Portable))];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(AesNi::detect().map(|simd| ("AES-NI", Self::AesNi(simd))));
            all.extend(Vaes::detect().map(|simd| ("VAES", Self::Vaes(simd))));
        }
        all
    }

    /// Runs `kernel` with these instructions.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) {
        match self {
            Self::Portable(simd) => kernel.run(simd),
            #[cfg(target_arch = "x86_64")]
            Self::AesNi(simd) => simd.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Self::Vaes(simd) => simd.run(kernel),
        }
    }
}
