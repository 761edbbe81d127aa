//! Matrix products on strided views, spread over the threads of the current rayon pool.
//!
//! The inner dimension is never split between threads, so a result does not depend on
//! their number.

use std::marker::PhantomData;

use rayon::prelude::*;

use super::precision::Precision;
use super::product::{self, Factor, Instructions, Sizes, Target};

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

    /// `count` rows from `first`.
    pub fn rows(self, first: usize, count: usize) -> Self {
        let start = if count == 0 {
            0
        } else {
            first * self.row_stride
        };
        Self {
            data: &self.data[start..],
            rows: count,
            ..self
        }
        .checked()
    }

    /// `count` columns from `first`.
    pub fn columns(self, first: usize, count: usize) -> Self {
        self.t().rows(first, count).t()
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

/// A row-major matrix to write to. Unlike a slice, it can be handed in parts to several
/// threads whose rows interleave in memory.
pub struct MatrixMut<'a> {
    data: *mut f32,
    rows: usize,
    columns: usize,
    row_stride: usize,
    life: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is a borrowed `&mut [f32]`; parts are disjoint by the contract of `part`.
unsafe impl Send for MatrixMut<'_> {}
// SAFETY: shared, it only hands out parts, under the contract of `part`.
unsafe impl Sync for MatrixMut<'_> {}

impl<'a> MatrixMut<'a> {
    /// Row-major and dense.
    pub fn new(data: &'a mut [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(data.len(), rows * columns, "a result has the wrong size");
        Self {
            data: data.as_mut_ptr(),
            rows,
            columns,
            row_stride: columns,
            life: PhantomData,
        }
    }

    fn clear(self) {
        for row in 0..self.rows {
            let start = self.data.wrapping_add(row * self.row_stride);
            // SAFETY: the row lies inside the matrix, which is borrowed mutably.
            unsafe { std::slice::from_raw_parts_mut(start, self.columns) }.fill(0.0);
        }
    }

    /// `rows` from `first_row` of `columns` from `first_column`.
    ///
    /// # Safety
    /// Of two parts that overlap, only one may be used.
    pub unsafe fn part(
        &self,
        (first_row, rows): (usize, usize),
        (first_column, columns): (usize, usize),
    ) -> MatrixMut<'_> {
        let inside = first_row + rows <= self.rows && first_column + columns <= self.columns;
        assert!(inside, "a part reaches beyond its matrix");
        let offset = first_row * self.row_stride + first_column;
        MatrixMut {
            data: self.data.wrapping_add(offset),
            rows,
            columns,
            row_stride: self.row_stride,
            life: PhantomData,
        }
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

/// Multiply-adds below which a second thread's wake-up costs more than it saves.
const WORTH_A_THREAD: usize = 1 << 20;

/// `out = a · b` or `out += a · b` on all threads; `out` is row-major and dense.
pub fn multiply(out: &mut [f32], mode: Into, a: Matrix, b: Matrix, precision: Precision) {
    multiply_with(Instructions::of(precision), out, mode, a, b);
}

fn multiply_with(with: Instructions, out: &mut [f32], mode: Into, a: Matrix, b: Matrix) {
    let (rows, columns) = (a.rows, b.columns);
    let out = MatrixMut::new(out, rows, columns);
    let most = rows * columns * a.columns / WORTH_A_THREAD;
    let threads = rayon::current_num_threads().min(most.max(1));
    if threads == 1 {
        return multiply_here_with(with, out, mode, a, b);
    }
    let (tall, wide) = cut(rows, columns, threads);
    let (height, width) = (
        rows.div_ceil(tall).next_multiple_of(with.rows()),
        columns.div_ceil(wide).next_multiple_of(32),
    );
    (0..tall * wide).into_par_iter().for_each(|part| {
        let (row, column) = ((part / wide) * height, (part % wide) * width);
        let (height, width) = (
            height.min(rows.saturating_sub(row)),
            width.min(columns.saturating_sub(column)),
        );
        if height == 0 || width == 0 {
            return;
        }
        // SAFETY: these parts tile the result.
        let out = unsafe { out.part((row, height), (column, width)) };
        let (a, b) = (a.rows(row, height), b.columns(column, width));
        multiply_here_with(with, out, mode, a, b);
    });
}

/// Into how many parts by rows and by columns a result is cut: as many as threads, so that
/// little is packed twice.
fn cut(rows: usize, columns: usize, threads: usize) -> (usize, usize) {
    let each = |tall: usize| (tall, threads / tall);
    let packed = |&(tall, wide): &(usize, usize)| rows.div_ceil(tall) + columns.div_ceil(wide);
    (1..=threads)
        .filter(|tall| threads.is_multiple_of(*tall))
        .map(each)
        .min_by_key(packed)
        .unwrap_or((threads, 1))
}

/// The same on the calling thread.
pub fn multiply_here(out: MatrixMut, mode: Into, a: Matrix, b: Matrix, precision: Precision) {
    multiply_here_with(Instructions::of(precision), out, mode, a, b);
}

fn multiply_here_with(with: Instructions, out: MatrixMut, mode: Into, a: Matrix, b: Matrix) {
    assert_eq!(a.columns, b.rows, "a product's inner sizes differ");
    let sizes = Sizes {
        rows: a.rows,
        columns: b.columns,
        inner: a.columns,
    };
    assert!(
        out.rows == sizes.rows && out.columns == sizes.columns,
        "a product's result has the wrong size"
    );
    if out.rows == 0 || out.columns == 0 {
        return;
    }
    if sizes.inner == 0 {
        if mode == Into::Set {
            out.clear();
        }
        return;
    }
    let target = Target {
        data: out.data,
        row_stride: out.row_stride,
        add: mode == Into::Add,
    };
    let left = Factor {
        data: a.data.as_ptr(),
        lane_stride: a.row_stride,
        inner_stride: a.column_stride,
    };
    let right = Factor {
        data: b.data.as_ptr(),
        lane_stride: b.column_stride,
        inner_stride: b.row_stride,
    };
    // SAFETY: views were checked to lie inside their slices when they were made, and the
    // result is borrowed mutably, so it overlaps neither; the processor was asked.
    unsafe {
        product::run(with, target, left, right, sizes);
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

    /// The transposed copy of a dense row-major matrix.
    fn turned(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
        (0..rows * columns)
            .map(|i| data[i % rows * columns + i / rows])
            .collect()
    }

    #[test]
    fn products_agree_with_the_definition_with_all_instructions_layouts_and_thread_counts() {
        let shapes = [
            (1, 1, 1),
            (3, 5, 7),
            (9, 33, 31),
            (130, 96, 65),
            (256, 128, 900),
            (64, 1500, 300),
        ];
        for (rows, columns, inner) in shapes {
            let (a, b) = (numbers(rows * inner, 0.7), numbers(inner * columns, 0.3));
            let (a_t, b_t) = (turned(&a, rows, inner), turned(&b, inner, columns));
            // The exact sum, and the size of its terms, for the error to be measured by.
            let mut exact = vec![(0.5f64, 0.0f64); rows * columns];
            for i in 0..rows {
                for j in 0..columns {
                    for k in 0..inner {
                        let term = f64::from(a[i * inner + k]) * f64::from(b[k * columns + j]);
                        let sum = &mut exact[i * columns + j];
                        *sum = (sum.0 + term, sum.1 + term.abs());
                    }
                }
            }
            for with in Instructions::here() {
                let tolerance = match with.precision() {
                    Precision::Float32 => 1e-6,
                    Precision::Bfloat16 => 8e-3,
                };
                let mut results = Vec::new();
                for threads in [1, 3, 4] {
                    let pool = rayon::ThreadPoolBuilder::new()
                        .num_threads(threads)
                        .build()
                        .unwrap();
                    let left = [
                        Matrix::new(&a, rows, inner),
                        Matrix::new(&a_t, inner, rows).t(),
                    ];
                    let right = [
                        Matrix::new(&b, inner, columns),
                        Matrix::new(&b_t, columns, inner).t(),
                    ];
                    for (left, right) in
                        [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(l, r)| (left[l], right[r]))
                    {
                        let mut out = vec![0.5; rows * columns];
                        pool.install(|| multiply_with(with, &mut out, Into::Add, left, right));
                        for (got, (exact, size)) in out.iter().zip(&exact) {
                            let error = (f64::from(*got) - exact).abs();
                            assert!(
                                error < tolerance * size.max(1.0),
                                "{with:?}: {got} {exact} {size}"
                            );
                        }
                        results.push(out);
                    }
                }
                let same = results.windows(2).all(|pair| pair[0] == pair[1]);
                assert!(same, "{with:?}");
            }
        }
    }

    #[test]
    fn an_empty_inner_dimension_gives_zeros() {
        let mut out = vec![7.0; 6];
        multiply(
            &mut out,
            Into::Set,
            Matrix::new(&[], 2, 0),
            Matrix::new(&[], 0, 3),
            Precision::Float32,
        );
        assert_eq!(out, [0.0; 6]);
    }
}
