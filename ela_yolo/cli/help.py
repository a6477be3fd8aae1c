"""The help of the command ``ela-yolo``."""

HELP = """\
ela-yolo: Ultralytics YOLO with ELA attention. Keys are Ultralytics', as key=value.

  ela-yolo quickstart                                      train, validate, export and compare on the embedded data
  ela-yolo train model=yolov8n-ela.yaml data=my.yaml       Ultralytics' own modes: train, val, predict, export, track,
  ela-yolo val model=best.pt data=my.yaml                  benchmark and tune, as `yolo` takes them
  ela-yolo export model=best.pt format=onnx                export, then compare the file with the model
  ela-yolo verify model=best.pt against=best.onnx          the same for a file that was exported elsewhere or earlier
  ela-yolo insert model=best.pt                            put ELA into a checkpoint or a model YAML, keep every weight
  ela-yolo remove model=best-ela.pt                        and take it out again
  ela-yolo attention model=best.pt source=images/          pictures of where ELA looks; with data=, whether it does
  ela-yolo compare models=A,B data=my.yaml seeds=0,1,2     train models alike and say what the difference shows
  ela-yolo profile model=yolov8n-ela.yaml                  what ELA costs, beside the plain model
  ela-yolo doctor                                          what is installed, and what is wrong with it
  ela-yolo COMMAND --help                                  more on one of them
  ela-yolo --version

Exit status: 0 done, 1 it failed, 2 wrong usage such as an unknown command or key, 130 interrupted.
PYTHONDEVMODE=1 shows the traceback of an error that comes from Ultralytics."""

COMMAND_HELP = {
    "quickstart": """\
ela-yolo quickstart [key=value ...]

Trains yolov8n-ela.yaml from scratch on scenes.yaml (rendered on this machine at first use), validates it, exports it
to ONNX, compares the file with the model, draws detections on some validation images, and prints where all of it lies.
Takes the train keys of Ultralytics, which replace the recipe's, such as epochs=60 or device=0.""",
    "export": """\
ela-yolo export model=best.pt format=onnx [source=images/] [data=my.yaml] [layers=True] [verify=False]
                [key=value ...]

Exports with Ultralytics' own exporter, then runs the file, in the runtime of its format, and the model on the same
images, and compares every output and the detections. Prints a table, writes it as JSON beside the file, and exits with
1 if they differ by more than the precision explains.

  format   onnx, torchscript, openvino, ncnn, mnn, litert, executorch; engine with a GPU, coreml on macOS; Ultralytics'
           others with verify=False
  source   a folder of images or one pattern such as 'images/*.jpg', at least two; default: some of data=, or
           photographs from Ultralytics
  data     compares the mAP of both on these validation images too; for int8 it is what Ultralytics calibrates with
  layers   True compares the outputs of the layers in order too, and names the first that differs: onnx, openvino
  verify   False skips the comparison

All other keys are Ultralytics' (`yolo cfg` lists them), such as dynamic=True, half=True, int8=True, nms=True.""",
    "verify": """\
ela-yolo verify model=best.pt against=best.onnx [source=images/] [data=my.yaml] [layers=True] [conf=0.25] [iou=0.7]
                [agnostic_nms=True]

Compares a file that `yolo export` or `ela-yolo export` made elsewhere or earlier with its model, as `ela-yolo export`
does. The file, or the folder that OpenVINO, NCNN and ExecuTorch have, keeps the ending that Ultralytics gave it.

  source, data, layers      as for export
  conf, iou, agnostic_nms   for a file with NMS in it: what it was exported with. Files of models with ELA tell;
                            for others the defaults are those of Ultralytics: 0.25, 0.7, False""",
    "insert": """\
ela-yolo insert model=best.pt [after=C2f] [where=backbone] [variant=B] [gate=identity] [lr_mult=10] [rewire=all]
                [block=ELA] [save=FILE] [dry_run=True] [exist_ok=True]

Puts an ELA row after stages of a checkpoint (.pt) or of a model YAML, renumbers the rows behind, and prints what
changed, and which rows it took. A checkpoint keeps every weight. The result is a file of its own.

A checkpoint of a changed Ultralytics, whose own ELA class is not here, is converted: its blocks become ELA where they
stand, with their weights. Then only gate=paper (default) or gate=residual, whichever that class computes, has a
meaning, and save=, dry_run= and exist_ok=.

  after     what to follow by ELA: modules (C2f), layer numbers (4,6,9) or pyramid levels (P3,P4,P5: the last stage of
            stride 8, 16, 32); default: every stage, the last row of a resolution before it changes: C2f in YOLOv8,
            C3k2 in YOLO11, whatever it is called in others
  where     backbone, neck or all; default: backbone, for layer numbers all
  variant   T, B, S or L; default: B
  gate      paper, residual or identity; default: identity, by which a checkpoint detects what it did
  lr_mult   multiple of the learning rate at which the gates are trained, up to 300; default: 10 for gate=identity and
            block=ChannelScale, else 1
  rewire    all: every reader of a stage reads its ELA (default); next: only the row behind it does
  block     another one: CA, CBAM, ECA or SE of timm (pip install timm), ChannelScale (ELA's control: a learned factor
            for each channel), or one that ela_yolo.register_block knows
  save      default: best-ela.pt for best.pt, in this folder
  dry_run   True prints and writes nothing
  exist_ok  True replaces a file that exists""",
    "remove": """\
ela-yolo remove model=best-ela.pt [save=FILE] [dry_run=True] [exist_ok=True]

Takes every ELA row out of a checkpoint (.pt) or a model YAML, renumbers the rows behind, and prints what changed.
All other weights of a checkpoint stay. The result is a file of its own.

  save      default: best-ela-plain.pt for best-ela.pt, in this folder
  dry_run   True prints and writes nothing
  exist_ok  True replaces a file that exists""",
    "attention": """\
ela-yolo attention model=best.pt [source=images/] [data=my.yaml] [imgsz=640] [save=FOLDER] [stretch=True]

Draws for each image the detections and, for each ELA block, by what it multiplies each place of the map (mean over the
channels), with the gate along the height at the side and the gate along the width at the bottom (mean, and the band
from the 10th to the 90th percentile of the channels). With data=, prints what the gates do over the validation images:
their mean, their spread across positions, the share that is saturated, the scale of the map, and a verdict.

  source   an image, a folder, a pattern such as 'images/*.jpg', a video: whatever `yolo predict` takes
  data     a data-set YAML, for the table
  imgsz    default: what the model was trained with
  save     default: best-attention for best.pt, in this folder
  stretch  True stretches the colours to each picture's own values; by default all pictures can be compared""",
    "compare": """\
ela-yolo compare models=yolov8n.yaml,yolov8n-ela.yaml data=my.yaml seeds=0,1,2 [controls=scale,next] [out=compare]
                 [engine=ray] [key=value ...]

Trains every model with every seed, with the same data, budget and keys, measures the weights of the last epoch, and
compares the models to the first one, seed by seed: scores, AP of small, medium and large objects, epochs until the
first one's final score, and cost; differences with bootstrap intervals over seeds and over images and an exact test;
and a sentence on what that shows. A run that is finished is kept: the same command goes on after an interruption, and
more seeds or models may join.

  models     model YAMLs or checkpoints, the one to compare with first. `ela-yolo insert model=yolov8n.pt block=CA`
             makes more of them: CA, CBAM, ECA and SE of timm
  seeds      fewer than three say nothing, fewer than six can show nothing; each model more needs more of them
  controls   models to compare with too. scale: the first model with ELA, with ChannelScale in the place of each block:
             a learned factor for each channel, which is ELA without attention. next: the first model at the next larger
             scale, such as yolov8s for yolov8n; for a checkpoint, the one of Ultralytics
  out        folder of the runs, the controls, compare.md, .csv, .json and .png; default: compare
  engine     ray runs as many at once as there are cores or GPUs (pip install 'ela-yolo[ray]')

All other keys are Ultralytics' train keys, such as epochs=50 or imgsz=640.""",
    "profile": """\
ela-yolo profile model=yolov8n-ela.yaml [imgsz=640] [device=cpu] [save=FILE.json]

Measures a model YAML or a checkpoint with ELA beside its plain model, the same with the ELA rows taken out: parameters,
GFLOPs, latency in PyTorch (fused) and, with the extra `export`, in ONNX Runtime, forward and backward of training, and
peak memory; and each ELA block within the model. Both run by turns, at batch 1, with as many threads as Ultralytics
sets. Prints two tables, and writes them as JSON and as a picture.

  imgsz    side of the square image in pixels; default: 640
  device   cpu (default), or a GPU as Ultralytics names it, such as 0
  save     default: yolov8n-ela-profile.json, with the picture beside it, in this folder; files there are replaced""",
    "doctor": """\
ela-yolo doctor [model=yolov8n-ela.yaml] [weights=yolov8n.pt]

Shows what is installed and from where, tries out what ela-yolo relies on in Ultralytics, and exits with 1 if anything
is wrong, naming the remedy.

  model     shows too which file this is, its scale and why, and its ELA blocks
  weights   shows too which of these weights that model takes""",
}
MODE_HELP = """\
ela-yolo {mode} [task] [key=value ...]

Ultralytics' own mode with ELA registered; `yolo {mode}` does the same. `yolo cfg` lists the keys and their defaults."""
