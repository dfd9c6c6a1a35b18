-- Names that are addresses of models are changed by 014, which replaces what stood here: it took
-- `https://huggingface.co/..` for a model. Databases that ran it have nothing that 014 would undo.
select 1;
