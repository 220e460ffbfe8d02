// Pillow's bilinear resizing of 8-bit images, bit for bit: as mic_det/deploy/resize.py.

const BITS = 22;

export function resizedShape(height, width, shorter, longer) {
  if (!shorter) return [height, width];
  let scale = shorter / Math.min(height, width);
  let [h, w] = height < width ? [shorter, scale * width] : [scale * height, shorter];
  if (Math.max(h, w) > longer) {
    scale = longer / Math.max(h, w);
    [h, w] = [h * scale, w * scale];
  }
  return [Math.floor(h + 0.5), Math.floor(w + 0.5)];
}

// rgb: Uint8Array of height x width x 3
export function resizeBilinear(rgb, height, width, newHeight, newWidth) {
  if (width !== newWidth) rgb = along(rgb, height, width, newWidth, 3);
  if (height !== newHeight) rgb = along(rgb, 1, height, newHeight, newWidth * 3);
  return rgb;
}

// One pass over an axis of `length` steps of `stride` values, in each of `outer` blocks.
function along(values, outer, length, newLength, stride) {
  const { first, weights, taps } = triangles(length, newLength);
  const result = new Uint8Array(outer * newLength * stride);
  for (let block = 0; block < outer; block++) {
    for (let i = 0; i < newLength; i++) {
      for (let k = 0; k < stride; k++) {
        let total = 2 ** (BITS - 1);
        for (let tap = 0; tap < taps; tap++) {
          const weight = weights[i * taps + tap];
          if (weight) total += weight * values[(block * length + first[i] + tap) * stride + k];
        }
        result[(block * newLength + i) * stride + k] = Math.floor(total / 2 ** BITS);
      }
    }
  }
  return result;
}

function triangles(old, length) {
  const scale = old / length, support = Math.max(scale, 1);
  const first = [], rows = [];
  for (let i = 0; i < length; i++) {
    const center = (i + 0.5) * scale;
    const begin = Math.max(Math.trunc(center - support + 0.5), 0);
    const end = Math.min(Math.trunc(center + support + 0.5), old);
    const row = [];
    let sum = 0;
    for (let place = begin; place < end; place++) {
      row.push(Math.max(1 - Math.abs((place - center + 0.5) * (1 / support)), 0));
      sum += row[row.length - 1];
    }
    first.push(begin);
    rows.push(row.map((x) => Math.trunc((x / sum) * 2 ** BITS + 0.5)));
  }
  const taps = Math.max(...rows.map((row) => row.length));
  const weights = new Int32Array(length * taps);
  rows.forEach((row, i) => weights.set(row, i * taps));
  return { first, weights, taps };
}
