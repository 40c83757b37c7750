// What the page uses of its libraries; `build.mjs` makes one classic script of it, with the global name `vendor`.
export { Fragment, h, render } from "preact";
export { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
export { html } from "htm/preact";
export { Virtualizer, elementScroll, observeElementOffset, observeElementRect } from "@tanstack/virtual-core";
export { default as uPlot } from "uplot";
