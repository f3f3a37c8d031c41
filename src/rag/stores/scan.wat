;; Dot products of one query with every row of a matrix, f32, SIMD: the exact search of stores/memory.ts.
;; scan(query, rows, numRows, stride, out): query [stride], rows [numRows, stride], out [numRows]; byte offsets into the memory,
;; stride in floats, a multiple of 8 (rows are padded with zeros). Two accumulators hide the latency of the additions.
;; Neither four accumulators nor four rows at a time were faster: from 10,000 rows on the loop waits for memory.
;; scan.wasm is this file assembled; stores/memory-index.test.ts compares the two.
(module
  (import "env" "memory" (memory 1 65536))
  (func (export "scan") (param $query i32) (param $rows i32) (param $numRows i32) (param $stride i32) (param $out i32)
    (local $end i32) (local $rowBytes i32) (local $i i32)
    (local $a v128) (local $b v128)
    (local.set $rowBytes (i32.shl (local.get $stride) (i32.const 2)))
    (local.set $end (i32.add (local.get $out) (i32.shl (local.get $numRows) (i32.const 2))))
    (block $done
      (br_if $done (i32.ge_u (local.get $out) (local.get $end)))
      (loop $nextRow
        (local.set $a (v128.const i32x4 0 0 0 0))
        (local.set $b (v128.const i32x4 0 0 0 0))
        (local.set $i (i32.const 0))
        (loop $nextColumns
          (local.set $a (f32x4.add (local.get $a) (f32x4.mul
            (v128.load (i32.add (local.get $query) (local.get $i)))
            (v128.load (i32.add (local.get $rows) (local.get $i))))))
          (local.set $b (f32x4.add (local.get $b) (f32x4.mul
            (v128.load offset=16 (i32.add (local.get $query) (local.get $i)))
            (v128.load offset=16 (i32.add (local.get $rows) (local.get $i))))))
          (local.set $i (i32.add (local.get $i) (i32.const 32)))
          (br_if $nextColumns (i32.lt_u (local.get $i) (local.get $rowBytes))))
        (local.set $a (f32x4.add (local.get $a) (local.get $b)))
        (f32.store (local.get $out) (f32.add
          (f32.add (f32x4.extract_lane 0 (local.get $a)) (f32x4.extract_lane 1 (local.get $a)))
          (f32.add (f32x4.extract_lane 2 (local.get $a)) (f32x4.extract_lane 3 (local.get $a)))))
        (local.set $rows (i32.add (local.get $rows) (local.get $rowBytes)))
        (local.set $out (i32.add (local.get $out) (i32.const 4)))
        (br_if $nextRow (i32.lt_u (local.get $out) (local.get $end)))))))
