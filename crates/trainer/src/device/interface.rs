//! The interfaces through which a GPU is reached.

/// One of them; of two that do the same for a GPU the earlier is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// Vulkan, on any system.
    Vulkan,
    /// Apple's.
    Metal,
    /// DirectX 12, Microsoft's.
    Dx12,
    /// NVIDIA's.
    Cuda,
    /// AMD's.
    Rocm,
}

impl Interface {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Vulkan,
        Self::Metal,
        Self::Dx12,
        Self::Cuda,
        Self::Rocm,
    ];

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vulkan => "Vulkan",
            Self::Metal => "Metal",
            Self::Dx12 => "DirectX 12",
            Self::Cuda => "CUDA",
            Self::Rocm => "ROCm",
        }
    }

    /// The word for it in a wish.
    pub fn word(self) -> &'static str {
        match self {
            Self::Vulkan => "vulkan",
            Self::Metal => "metal",
            Self::Dx12 => "dx12",
            Self::Cuda => "cuda",
            Self::Rocm => "rocm",
        }
    }

    /// The feature without which this program has no way through it, if it was built without.
    pub(crate) fn missing_feature(self) -> Option<&'static str> {
        match self {
            Self::Cuda if !cfg!(feature = "cuda") => Some("cuda"),
            Self::Rocm if !cfg!(feature = "rocm") => Some("rocm"),
            _ if !cfg!(feature = "gpu") => Some("gpu"),
            _ => None,
        }
    }
}
