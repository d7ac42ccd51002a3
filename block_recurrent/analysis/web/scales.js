// Colour scales, and their legends with units.

function number(value) {
  return value === 0 ? "0" : value.toPrecision(2);
}

// 256 colours from the first to the last, as the integers of an ImageData.
function gradient(colors) {
  const canvas = element("canvas", { width: 256, height: 1 });
  const context = canvas.getContext("2d");
  const fill = context.createLinearGradient(0, 0, 255, 0);
  colors.forEach((each, index) => fill.addColorStop(index / (colors.length - 1), each));
  context.fillStyle = fill;
  context.fillRect(0, 0, 256, 1);
  return new Uint32Array(context.getImageData(0, 0, 256, 1).data.buffer);
}

function drawScale(id, colors, low, high) {
  const [left, canvas, right] = document.getElementById(id).children;
  [left.textContent, right.textContent] = [low, high];
  canvas.width = colors.length;
  const image = new ImageData(new Uint8ClampedArray(colors.buffer), colors.length, 1);
  canvas.getContext("2d").putImageData(image, 0, 0);
}
