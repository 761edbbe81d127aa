//! What a person asks for.

use std::str::FromStr;

use super::{DeviceError, Interface};

/// `auto`, `cpu`, `gpu` or `gpu:1`, or an interface too, as in `cuda:0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// A hardware GPU that works, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU with this number, hardware before software, and nothing else; through the
    /// interface that does most for it.
    Gpu(usize),
    /// The GPU with this number among those of an interface, and nothing else.
    Through(Interface, usize),
}

impl FromStr for Wish {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let refused = || DeviceError::NoWish(text.to_owned());
        match text {
            "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Cpu),
            _ => {}
        }
        let (word, index) = match text.split_once(':') {
            None => (text, 0),
            Some((word, digits)) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                (word, digits.parse().map_err(|_| refused())?)
            }
            Some(_) => return Err(refused()),
        };
        if word == "gpu" {
            return Ok(Self::Gpu(index));
        }
        Interface::ALL
            .into_iter()
            .find(|interface| interface.word() == word)
            .map(|interface| Self::Through(interface, index))
            .ok_or_else(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_read_and_other_texts_refused_with_what_is_allowed() {
        assert_eq!("auto".parse(), Ok(Wish::Auto));
        assert_eq!("cpu".parse(), Ok(Wish::Cpu));
        assert_eq!("gpu".parse(), Ok(Wish::Gpu(0)));
        assert_eq!("gpu:3".parse(), Ok(Wish::Gpu(3)));
        assert_eq!("cuda".parse(), Ok(Wish::Through(Interface::Cuda, 0)));
        assert_eq!("rocm:2".parse(), Ok(Wish::Through(Interface::Rocm, 2)));
        for text in [
            "",
            "GPU",
            "gpu:",
            "gpu:x",
            "gpu:-1",
            "gpu:+1",
            "gpu:1:2",
            "cpu:0",
            "auto:0",
            "CUDA",
            "cuda:",
            "opencl",
            "gpu:99999999999999999999999",
        ] {
            let error = text.parse::<Wish>().unwrap_err();
            assert_eq!(error, DeviceError::NoWish(text.to_owned()));
            let error = error.to_string();
            for allowed in ["`gpu:1`", "`cuda`"] {
                assert!(error.contains(allowed), "{error}");
            }
        }
    }

    #[test]
    fn every_interface_can_be_wished_for_by_its_word() {
        for interface in Interface::ALL {
            let text = format!("{}:1", interface.word());
            assert_eq!(text.parse(), Ok(Wish::Through(interface, 1)));
            let error = DeviceError::NoWish(String::new()).to_string();
            let word = format!("`{}`", interface.word());
            assert!(error.contains(&word), "{error}");
        }
    }
}
