//! Matrix products on strided views, through the `gemm` crate.
//!
//! Products are split by rows of the result over the threads of the current rayon pool;
//! the inner dimension is never split, so the result does not depend on their number.

use rayon::prelude::*;

/// A read-only matrix inside a slice.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Row-major and dense.
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// Row-major, one row every `row_stride` elements.
    pub fn strided(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        Self {
            data,
            rows,
            columns,
            row_stride,
            column_stride: 1,
        }
        .checked()
    }

    /// Transposed view.
    pub fn t(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    fn rows_from(self, first: usize, rows: usize) -> Self {
        Self {
            data: &self.data[first * self.row_stride..],
            rows,
            ..self
        }
    }

    /// The product reads unchecked, so no view may reach beyond its slice.
    fn checked(self) -> Self {
        if self.rows > 0 && self.columns > 0 {
            let last = (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride;
            assert!(
                last < self.data.len(),
                "a matrix view reaches beyond its data"
            );
        }
        self
    }
}

/// What happens to the former contents of a result.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Into {
    /// Overwritten.
    Set,
    /// Added to.
    Add,
}

/// `out = a · b` or `out += a · b`; `out` is row-major and dense.
pub fn multiply(out: &mut [f32], mode: Into, a: Matrix, b: Matrix) {
    let columns = b.columns;
    assert_eq!(
        out.len(),
        a.rows * columns,
        "a product's result has the wrong size"
    );
    let threads = rayon::current_num_threads();
    // Below about 2 million multiply-adds a thread's wake-up costs more than it saves.
    if threads == 1 || a.rows * columns * a.columns < 1 << 21 || a.rows < 2 * threads {
        return multiply_strided(out, columns, mode, a, b);
    }
    let rows_each = a.rows.div_ceil(threads).next_multiple_of(8);
    out.par_chunks_mut(rows_each * columns)
        .enumerate()
        .for_each(|(part, out)| {
            let a = a.rows_from(part * rows_each, out.len() / columns);
            multiply_strided(out, columns, mode, a, b);
        });
}

/// The same on one thread into a result with one row every `row_stride` elements.
pub fn multiply_strided(out: &mut [f32], row_stride: usize, mode: Into, a: Matrix, b: Matrix) {
    assert_eq!(a.columns, b.rows, "a product's inner sizes differ");
    let (a, b) = (a.checked(), b.checked());
    if a.rows == 0 || b.columns == 0 {
        return;
    }
    assert!(b.columns <= row_stride && (a.rows - 1) * row_stride + b.columns <= out.len());
    // SAFETY: both views and the result were checked to lie inside their slices, and the
    // result is borrowed mutably, so it overlaps neither.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out.as_mut_ptr(),
            1,
            row_stride as isize,
            mode == Into::Add,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Rows that one task of a row-wise kernel handles: fixed, so that partial sums over rows
/// are grouped alike whatever the number of threads.
pub const ROWS_PER_TASK: usize = 128;

/// Runs `kernel(index, chunk)` over chunks of `out`, in parallel where there are threads.
pub fn for_tasks(out: &mut [f32], chunk: usize, kernel: impl Fn(usize, &mut [f32]) + Sync) {
    if rayon::current_num_threads() == 1 {
        out.chunks_mut(chunk)
            .enumerate()
            .for_each(|(part, out)| kernel(part, out));
    } else {
        out.par_chunks_mut(chunk)
            .enumerate()
            .for_each(|(part, out)| kernel(part, out));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, step: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * step).sin()).collect()
    }

    #[test]
    fn products_agree_with_the_definition_in_all_layouts_and_thread_counts() {
        for (rows, columns, inner) in [(1, 1, 1), (3, 5, 7), (130, 96, 65), (256, 128, 128)] {
            let (a, b) = (numbers(rows * inner, 0.7), numbers(inner * columns, 0.3));
            let a_t: Vec<f32> = (0..rows * inner)
                .map(|i| a[i % rows * inner + i / rows])
                .collect();
            let mut exact = vec![0.5f64; rows * columns];
            for i in 0..rows {
                for j in 0..columns {
                    for k in 0..inner {
                        exact[i * columns + j] +=
                            f64::from(a[i * inner + k]) * f64::from(b[k * columns + j]);
                    }
                }
            }
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .unwrap();
                for view in [
                    Matrix::new(&a, rows, inner),
                    Matrix::new(&a_t, inner, rows).t(),
                ] {
                    let mut out = vec![0.5; rows * columns];
                    pool.install(|| {
                        multiply(&mut out, Into::Add, view, Matrix::new(&b, inner, columns));
                    });
                    for (got, exact) in out.iter().zip(&exact) {
                        assert!((f64::from(*got) - exact).abs() < 1e-3, "{got} {exact}");
                    }
                }
            }
        }
    }
}
