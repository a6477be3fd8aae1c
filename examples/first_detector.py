"""From medical photographs to a detector with ELA, what attention contributes, and an ONNX file that matches.

``python first_detector.py`` downloads the data set brain-tumor (4 MB) and the weights yolov8n.pt, and needs some
minutes on two CPU cores. Each of these may be another: ``data=my.yaml model=best.pt epochs=50 imgsz=640``.
"""

import subprocess
import sys
from pathlib import Path

from ultralytics import YOLO

import ela_yolo


def command(*words):
    """Run an ela-yolo command, and stop here if it fails or does not end."""
    subprocess.run([sys.executable, "-m", "ela_yolo", *map(str, words)], check=True, timeout=3600)


def main(data="brain-tumor.yaml", model="yolov8n.pt", epochs="8", imgsz="256"):
    """Train, validate, look and export."""
    # 1. ELA behind each stage of the backbone. All weights stay, and until it is trained ELA changes nothing.
    inserted = Path(model).stem + "-ela.pt"
    print(ela_yolo.insert(model, save=inserted, exist_ok=True).transfer)

    # 2. Training and validation are Ultralytics' own. It says where the run lies.
    detector = YOLO(inserted)
    detector.train(data=data, epochs=int(epochs), imgsz=int(imgsz))
    best = detector.trainer.best
    metrics = YOLO(best).val(data=data, imgsz=int(imgsz))
    print(f"mAP50-95 on the validation images: {metrics.box.map:.3f}")

    # 3. What does attention contribute, and which places of a validation image support each detection?
    print(ela_yolo.ablate(best, data=data, imgsz=int(imgsz)))
    images = Path(detector.trainer.data["val"])
    image = min(images.glob("*.*"))
    command("attention", f"model={best}", f"source={image}", f"imgsz={imgsz}", "save=attention")

    # 4. An ONNX file, compared with the model on real images; this fails if they differ.
    command("export", f"model={best}", "format=onnx", f"imgsz={imgsz}")
    print(Path(best).with_suffix(".onnx"))


if __name__ == "__main__":
    main(**dict(word.split("=", 1) for word in sys.argv[1:]))
