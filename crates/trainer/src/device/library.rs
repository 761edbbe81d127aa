//! The shared libraries that CUDA and ROCm need. They are opened, and asked whether they work,
//! before the backend is: it panics or ends the process over one that is missing.

/// What has to be there for an interface.
pub struct Needed {
    /// The libraries, each with the names it may have.
    libraries: &'static [&'static [&'static str]],
    /// Environment variables that may name the folder above the libraries'.
    #[cfg_attr(not(any(feature = "cuda", feature = "rocm")), expect(dead_code))]
    roots: &'static [&'static str],
    /// The function of the first library that makes it ready.
    start: &'static str,
    /// Others of it without which the backend would end the process.
    #[cfg_attr(not(any(feature = "cuda", feature = "rocm")), expect(dead_code))]
    functions: &'static [&'static str],
    /// What brings them.
    comes_with: &'static str,
}

/// Why a library is of no use.
#[derive(Debug)]
pub enum Failure {
    /// The system could not open it, in its words.
    Unopened(String),
    /// It has no function of this name.
    Lacks(String),
    /// It could not be made ready, with its number for why.
    Refused(i32),
}

/// What CUDA's backend opens: of the driver alone.
#[cfg(any(feature = "cuda", test))]
pub const CUDA: Needed = Needed {
    libraries: match cfg!(windows) {
        true => &[&["nvcuda.dll"]],
        false => &[&["libcuda.so.1", "libcuda.so"]],
    },
    roots: &[],
    start: "cuInit",
    // The backend panics over others, which is caught.
    functions: &[],
    comes_with: "NVIDIA's driver",
};

/// What ROCm's backend opens, by the same names and in the same folders.
#[cfg(any(feature = "rocm", test))]
pub const ROCM: Needed = Needed {
    libraries: match cfg!(windows) {
        true => &[&["amdhip64.dll"], &["hiprtc.dll"]],
        false => &[
            &["libamdhip64.so", "libamdhip64.so.1", "libamdhip64.so.0"],
            &["libhiprtc.so", "libhiprtc.so.1", "libhiprtc.so.0"],
        ],
    },
    roots: &["ROCM_PATH", "HIP_PATH"],
    start: "hipInit",
    functions: &[
        "hipDeviceGetPCIBusId",
        "hipEventCreateWithFlags",
        "hipEventDestroy",
        "hipEventElapsedTime",
        "hipEventRecord",
        "hipEventSynchronize",
        "hipFree",
        "hipFreeAsync",
        "hipGetDeviceCount",
        "hipGetDevicePropertiesR0600",
        "hipFreeHost",
        "hipHostMalloc",
        "hipMalloc",
        "hipMallocAsync",
        "hipMemGetInfo",
        "hipMemcpy2DAsync",
        "hipMemcpyDtoDAsync",
        "hipMemcpyDtoHAsync",
        "hipMemcpyHtoDAsync",
        "hipModuleGetFunction",
        "hipModuleLaunchKernel",
        "hipModuleLoadData",
        "hipModuleUnload",
        "hipSetDevice",
        "hipSetDeviceFlags",
        "hipStreamCreateWithFlags",
        "hipStreamSynchronize",
        "hipStreamWaitEvent",
    ],
    comes_with: "ROCm, whose folder ROCM_PATH may name",
};

/// The answer of `cuInit` and of `hipInit` where there is no GPU.
const NO_DEVICE: i32 = 100;

impl Needed {
    /// A clause for people on why the library of this name is of no use.
    fn reason(&self, library: &str, failure: &Failure) -> String {
        let (start, comes_with) = (self.start, self.comes_with);
        match failure {
            // The system's words may be about another library, which this one needs.
            Failure::Unopened(words)
                if words.starts_with(library) && words.contains("No such file") =>
            {
                format!("{library} is not installed (it comes with {comes_with})")
            }
            Failure::Unopened(words) => {
                let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
                format!("{library} can't be opened (it comes with {comes_with}): {words}")
            }
            Failure::Lacks(function) => format!(
                "{library} has no {function}: it is too old, or another library than the one that \
                 comes with {comes_with}"
            ),
            Failure::Refused(NO_DEVICE) => {
                format!("{start} of {library} finds no GPU (error {NO_DEVICE})")
            }
            Failure::Refused(number) => format!("{start} of {library} failed (error {number})"),
        }
    }
}

#[cfg(any(feature = "cuda", feature = "rocm"))]
mod open {
    use std::error::Error;
    use std::path::PathBuf;

    use libloading::Library;

    use super::{Failure, Needed};

    impl Needed {
        /// Whether all libraries are there and can be made ready; the error is a clause for people.
        pub fn check(&self) -> Result<(), String> {
            let mut first = None;
            for names in self.libraries {
                let library = self.open(names)?;
                first.get_or_insert((names[0], library));
            }
            let Some((name, library)) = first else {
                return Ok(());
            };
            self.start(library)
                .map_err(|failure| self.reason(name, &failure))
        }

        /// Makes a library ready, and keeps it open: it may have started threads.
        fn start(&self, library: Library) -> Result<(), Failure> {
            for function in self.functions {
                find(&library, function)?;
            }
            let start = find(&library, self.start)?;
            // SAFETY: this is the type of `cuInit` and of `hipInit`. They take a number, which must
            // be zero, and may be called often.
            let answer = unsafe { start(0) };
            std::mem::forget(library);
            match answer {
                0 => Ok(()),
                number => Err(Failure::Refused(number)),
            }
        }

        /// A library by the first of its names that can be opened.
        fn open(&self, names: &[&str]) -> Result<Library, String> {
            let roots = self.roots.iter().filter_map(std::env::var_os);
            let folders = roots.flat_map(|root| {
                let root = PathBuf::from(root);
                [root.join("lib"), root]
            });
            // Last without a folder: where the system looks.
            let mut paths: Vec<PathBuf> = folders
                .flat_map(|folder| names.iter().map(move |name| folder.join(name)))
                .filter(|path| path.exists())
                .collect();
            paths.extend(names.iter().map(PathBuf::from));
            let mut reason = None;
            for path in paths {
                // SAFETY: a library may do anything when it is opened; that of a driver is trusted
                // as the backend trusts it, which opens it by the same name next.
                match unsafe { Library::new(&path) } {
                    Ok(library) => return Ok(library),
                    Err(error) => reason.get_or_insert_with(|| {
                        let words = error.source().map(ToString::to_string);
                        let failure = Failure::Unopened(words.unwrap_or(error.to_string()));
                        self.reason(&path.to_string_lossy(), &failure)
                    }),
                };
            }
            Err(reason.unwrap_or_default())
        }
    }

    /// A function of a library, of the type of those that make ready.
    fn find(
        library: &Library,
        name: &str,
    ) -> Result<unsafe extern "system" fn(u32) -> i32, Failure> {
        // SAFETY: it is looked up here and called, if at all, where its type is known to be this.
        let function = unsafe { library.get(name) };
        function
            .map(|function| *function)
            .map_err(|_| Failure::Lacks(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unopened(words: &str) -> Failure {
        Failure::Unopened(words.to_owned())
    }

    #[test]
    fn a_missing_library_is_told_with_what_brings_it() {
        let words = "libcuda.so.1: cannot open shared object file: No such file or directory";
        assert_eq!(
            CUDA.reason("libcuda.so.1", &unopened(words)),
            "libcuda.so.1 is not installed (it comes with NVIDIA's driver)"
        );
        let words = "libamdhip64.so: cannot open shared object file: No such file or directory";
        assert_eq!(
            ROCM.reason("libamdhip64.so", &unopened(words)),
            "libamdhip64.so is not installed (it comes with ROCm, whose folder ROCM_PATH may name)"
        );
    }

    #[test]
    fn a_library_that_cannot_be_opened_is_told_in_one_line_with_the_systems_words() {
        for words in [
            "libcuda.so.1: file too short",
            "libother.so.2: cannot open shared object file: No such file or directory",
            "LoadLibraryExW\nfailed",
        ] {
            let reason = CUDA.reason("libcuda.so.1", &unopened(words));
            let told = words.replace('\n', " ");
            assert!(reason.ends_with(&told), "{reason}");
            assert!(!reason.contains("not installed"), "{reason}");
        }
    }

    #[test]
    fn a_library_that_does_not_start_is_told_with_its_number() {
        let reason = CUDA.reason("libcuda.so.1", &Failure::Refused(100));
        assert_eq!(reason, "cuInit of libcuda.so.1 finds no GPU (error 100)");
        let reason = ROCM.reason("libamdhip64.so", &Failure::Refused(803));
        assert_eq!(reason, "hipInit of libamdhip64.so failed (error 803)");
    }

    #[test]
    fn another_library_of_that_name_is_told() {
        let reason = CUDA.reason("libcuda.so.1", &Failure::Lacks("cuInit".to_owned()));
        assert_eq!(
            reason,
            "libcuda.so.1 has no cuInit: it is too old, or another library than the one that comes \
             with NVIDIA's driver"
        );
    }

    #[test]
    fn every_library_has_a_name() {
        for needed in [CUDA, ROCM] {
            assert!(needed.libraries.iter().all(|names| !names.is_empty()));
        }
    }

    #[cfg(all(any(feature = "cuda", feature = "rocm"), target_os = "linux"))]
    #[test]
    fn libraries_that_are_missing_or_of_another_kind_are_refused_without_a_panic() {
        let missing = Needed {
            libraries: &[&["libnowhere-at-all.so.1", "libnowhere-at-all.so"]],
            ..CUDA
        };
        assert_eq!(
            missing.check().unwrap_err(),
            "libnowhere-at-all.so.1 is not installed (it comes with NVIDIA's driver)"
        );
        let foreign = Needed {
            libraries: &[&["libm.so.6"]],
            ..CUDA
        };
        let reason = foreign.check().unwrap_err();
        assert!(reason.starts_with("libm.so.6 has no cuInit"), "{reason}");
        let half = Needed {
            functions: &["cos", "hipGetDeviceCount"],
            start: "sin",
            ..foreign
        };
        let reason = half.check().unwrap_err();
        assert!(
            reason.starts_with("libm.so.6 has no hipGetDeviceCount"),
            "{reason}"
        );
    }
}
