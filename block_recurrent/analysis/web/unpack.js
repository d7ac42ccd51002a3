// Unpacks the data of the page: a header, the text, and arrays whose values are scale · q^power.

const TYPES = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array };

class Values {
  constructor({ shape, scale, power }, q) {
    Object.assign(this, { scale, power, q, columns: shape[1] ?? 1 });
  }
  get rows() {
    return this.q.length / this.columns;
  }
  at(row, column = 0) {
    const q = this.q[row * this.columns + column];
    return this.scale * (this.power === 2 ? q * q : q);
  }
  // Replaces the rows from one on by others, which may have another scale.
  put(row, values) {
    const from = row * this.columns;
    const size = from + values.q.length;
    if (!(size <= this.room?.length)) {
      const room = new Float32Array(2 * size);
      for (let i = 0; i < from; i++) room[i] = this.at(0, i);
      Object.assign(this, { room, scale: 1, power: 1 });
    }
    for (let i = from; i < size; i++) this.room[i] = values.at(0, i - from);
    this.q = this.room.subarray(0, size);
  }
}

async function unpack(base64) {
  const packed = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true }); // a byte-order mark is text
  const decode = (from, length) => decoder.decode(new Uint8Array(buffer, from, length));
  const headerLength = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(decode(4, headerLength));
  let place = 4 + headerLength;
  const text = decode(place, header.text);
  place += header.text;
  const arrays = {};
  for (const described of header.arrays) {
    const type = TYPES[described.type];
    const end = place + type.BYTES_PER_ELEMENT * described.shape.reduce((a, b) => a * b, 1);
    arrays[described.name] = new Values(described, new type(buffer.slice(place, end)));
    place = end;
  }
  return { about: header.about, text, arrays };
}
